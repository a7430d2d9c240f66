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

  /// The ids of a conversation, with the opening of the answer. `room`: where there are more, the oldest turns are left
  /// out. `date`: for templates that write one.
  public func ids(_ chat: [Message], _ tokenizer: Tokenizer, room: Int = .max, date: Date = Date()) throws -> [Int] {
    guard refused == nil else { return startIds + tokenizer.encode(chat.last?.content ?? "") }
    let ids = try tokenizer.encode(render(chat, date: date))
    guard ids.count > room, let oldest = chat.firstIndex(where: { $0.role == "user" }), oldest + 2 < chat.count else {
      return ids
    }
    return try self.ids(Array(chat[..<oldest] + chat[(oldest + 2)...]), tokenizer, room: room, date: date)
  }

  /// The text of a conversation, with the opening of the answer.
  public func render(_ messages: [Message], date: Date = Date()) throws -> String {
    guard let begin, let noSystem, let answer, let user, let assistant else {
      throw SlmkitError(refused ?? "chat.json names no texts")
    }
    let day = self.date.map { ($0.text, Self.written(date, $0.pattern)) }
    let fixed = { (text: String) in
      day.map { text.replacingOccurrences(of: $0, with: $1, options: .literal) } ?? text
    }
    var rest = messages[...], text = fixed(begin), isOpen = false
    if let first = rest.first, first.role == "system" {
      guard let system else { throw SlmkitError("this model's template takes no system message") }
      rest = rest.dropFirst()
      text += fixed(system.before) + Self.content(first, system) + fixed(system.after)
      isOpen = system.opensUser == true
    } else {
      text += fixed(noSystem)
    }
    for message in rest {
      let part = message.role == "user" ? user : assistant
      text += (isOpen ? "" : fixed(part.before)) + Self.content(message, part) + fixed(part.after)
      isOpen = false
    }
    return text + fixed(answer)
  }

  private static func content(_ message: Message, _ part: Part) -> String {
    var text = Array(message.content.unicodeScalars)[...]
    if let thinking = part.thinking,
      let found = message.content.range(of: thinking.end, options: [.literal, .backwards])
    {
      text = Array(message.content.unicodeScalars[found.upperBound...])[...]
      text = text.drop { thinking.strip.unicodeScalars.contains($0) }
    }
    if part.trim == true {
      text = text.drop(while: isSpace)
      while let last = text.last, isSpace(last) { text.removeLast() }
    }
    return String(String.UnicodeScalarView(text))
  }

  /// As Python's str.strip sees it.
  private static func isSpace(_ scalar: Unicode.Scalar) -> Bool {
    scalar.properties.isWhitespace || (0x1C...0x1F).contains(scalar.value)
  }

  private static func written(_ date: Date, _ pattern: String) -> String {
    let format = DateFormatter()
    format.locale = Locale(identifier: "en_US_POSIX")
    format.dateFormat = pattern
    return format.string(from: date)
  }
}
