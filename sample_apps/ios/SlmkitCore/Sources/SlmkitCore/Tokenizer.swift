import Foundation

/// `tokens.json`: a tokenizer as data, which Python worked out of its `tokenizer.json`.
struct Tokens: Decodable {
  /// A token that is found in a text as it stands; it takes the white space before or after it with it.
  struct Added: Decodable { let id: Int, content: String, special: Bool, late: Bool, lstrip: Bool, rstrip: Bool }
  let format: String, nfc: Bool, prefix: String, splits: [String], wholeFirst: Bool, added: [Added]
  let byteIds: [Int], characters: [Int], merges: [Int]
  let texts: [String?]  // by id: its bytes as U+0000 to U+00FF
}

/// Text to ids and back, by the data in `tokens.json`.
public final class Tokenizer: Sendable {
  private let pairs: PairEncoding
  private let splits: [NSRegularExpression], composes: Bool
  private let early: AddedTokens, late: AddedTokens  // late: in what the others leave
  private let bytes: [[UInt8]], special: Set<Int>
  fileprivate let prefix: String

  public init(_ data: Data) throws {
    let tokens = try decoded(Tokens.self, data, of: "tokens.json")
    guard tokens.format == "slmkit-app-tokens/1" else {
      throw SlmkitError("tokens.json has the format \(tokens.format), and this app reads slmkit-app-tokens/1")
    }
    (composes, prefix) = (tokens.nfc, tokens.prefix)
    splits = try tokens.splits.map { try NSRegularExpression(pattern: $0) }
    early = AddedTokens(tokens.added.filter { !$0.late })
    late = AddedTokens(tokens.added.filter(\.late))
    special = Set(tokens.added.filter(\.special).map(\.id))
    bytes = tokens.texts.map { ($0 ?? "").unicodeScalars.map { UInt8(truncatingIfNeeded: $0.value) } }
    pairs = PairEncoding(tokens, bytes)
  }

  /// The ids of a text, without those that a model's author puts before it.
  public func encode(_ text: String) -> [Int] { early.ids(text) { late.ids($0, between: plain) } }

  private func plain(_ text: String) -> [Int] {
    let whole = prefix + (composes ? text.precomposedStringWithCanonicalMapping : text)
    return splits.reduce([whole]) { pieces, split in pieces.flatMap { split.pieces($0) } }.flatMap(pairs.ids)
  }

  /// The text of ids. `special`: with that of special tokens.
  public func decode(_ ids: [Int], special: Bool = false) -> String {
    var decoder = TextDecoder(self, special: special)
    return ids.map { decoder.add($0) }.joined() + decoder.end()
  }

  fileprivate func bytes(_ id: Int, special: Bool) -> [UInt8] {
    bytes.indices.contains(id) && (special || !self.special.contains(id)) ? bytes[id] : []
  }
}

extension NSRegularExpression {
  /// The matches in a text: no token crosses from one to another.
  func pieces(_ text: String) -> [String] {
    let all = NSString(string: text)
    return matches(in: text, range: NSRange(location: 0, length: all.length)).map { all.substring(with: $0.range) }
  }
}

/// Ids to text, one by one: a character may span tokens, and comes with the last of them.
public struct TextDecoder {
  private let tokenizer: Tokenizer, special: Bool
  private var pending: [UInt8] = [], atStart = true

  public init(_ tokenizer: Tokenizer, special: Bool = false) { (self.tokenizer, self.special) = (tokenizer, special) }

  public mutating func add(_ id: Int) -> String {
    pending += tokenizer.bytes(id, special: special)
    if atStart, !pending.isEmpty {
      if pending.starts(with: tokenizer.prefix.utf8) { pending.removeFirst(tokenizer.prefix.utf8.count) }
      atStart = false
    }
    let whole = pending.count - Self.unfinished(pending)
    defer { pending.removeFirst(whole) }
    return String(decoding: pending[..<whole], as: UTF8.self)
  }

  /// What is left of a character that did not end.
  public mutating func end() -> String {
    defer { pending = [] }
    return String(decoding: pending, as: UTF8.self)
  }

  /// How many bytes at the end begin a character and do not end it.
  private static func unfinished(_ bytes: [UInt8]) -> Int {
    for (back, byte) in bytes.suffix(3).reversed().enumerated() where byte >= 0xC0 || byte < 0x80 {
      let length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1
      return back + 1 < length ? back + 1 : 0
    }
    return 0
  }
}
