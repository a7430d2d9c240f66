import Foundation

/// A message of a chat. `role`: "system", "user" or "assistant".
public struct Message: Codable, Sendable, Equatable {
  public var role: String, content: String
  public init(_ role: String, _ content: String) { (self.role, self.content) = (role, content) }
}

/// A chat template as fixed texts before and after each message, proved equal to it when the app was made.
public struct ChatForm: Decodable, Sendable {
  struct Thinking: Decodable { let end: String, strip: String }  // left out of earlier answers: all up to `end`
  struct Part: Decodable {
    let before: String, after: String
    var trim: Bool?, opensUser: Bool?, thinking: Thinking?
  }
  struct Day: Decodable { let text: String, pattern: String }

  /// Why the template has no such form: the app then takes raw prompts.
  public let refused: String?
  /// Ids before a raw prompt.
  public let startIds: [Int]
  private let begin: String?, noSystem: String?, answer: String?, date: Day?
  private let system: Part?, user: Part?, assistant: Part?

  /// Reads `chat.json`. `today`: for templates that write the date.
  public static func read(_ data: Data, today: Date = Date()) throws -> ChatForm {
    let form = try decoded(ChatForm.self, data, of: "chat.json")
    guard let day = form.date else { return form }
    let format = DateFormatter()
    format.locale = Locale(identifier: "en_US_POSIX")
    format.dateFormat = day.pattern
    let text = String(decoding: data, as: UTF8.self).replacing(day.text, with: format.string(from: today))
    return try decoded(ChatForm.self, Data(text.utf8), of: "chat.json")
  }

  /// The ids of a conversation, with the opening of the answer. `room`: where there are more, the oldest turns are left
  /// out.
  public func ids(_ chat: [Message], _ tokenizer: Tokenizer, room: Int = .max) throws -> [Int] {
    guard refused == nil else { return startIds + tokenizer.encode(chat.last?.content ?? "") }
    let ids = try tokenizer.encode(render(chat))
    guard ids.count > room, let oldest = chat.firstIndex(where: { $0.role == "user" }), oldest + 2 < chat.count else {
      return ids
    }
    return try self.ids(Array(chat[..<oldest] + chat[(oldest + 2)...]), tokenizer, room: room)
  }

  /// The text of a conversation, with the opening of the answer.
  public func render(_ messages: [Message]) throws -> String {
    guard let begin, let noSystem, let answer, let user, let assistant else {
      throw SlmkitError(refused ?? "chat.json names no texts")
    }
    var turns = messages[...], start = noSystem, isOpen = false
    if let first = turns.first, first.role == "system" {
      guard let system else { throw SlmkitError("this model's template takes no system message") }
      turns = turns.dropFirst()
      start = system.before + system.around(first.content)
      isOpen = system.opensUser == true
    }
    let parts = turns.enumerated().map { at, turn in
      let part = turn.role == "user" ? user : assistant
      return (isOpen && at == 0 ? "" : part.before) + part.around(turn.content)
    }
    return begin + start + parts.joined() + answer
  }
}

extension ChatForm.Part {
  /// A content with the text after it.
  func around(_ content: String) -> String {
    var text = Array(content.unicodeScalars)[...]
    if let thinking, let found = content.range(of: thinking.end, options: [.literal, .backwards]) {
      text = Array(content.unicodeScalars[found.upperBound...])[...]
      text = text.drop { thinking.strip.unicodeScalars.contains($0) }
    }
    if trim == true {
      text = text.drop(while: isSpace)
      while let last = text.last, isSpace(last) { text.removeLast() }
    }
    return String(String.UnicodeScalarView(text)) + after
  }

  /// As Python's str.strip sees it.
  private func isSpace(_ scalar: Unicode.Scalar) -> Bool {
    scalar.properties.isWhitespace || (0x1C...0x1F).contains(scalar.value)
  }
}
