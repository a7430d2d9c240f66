import Foundation

/// Text to ids and back, by a `tokenizer.json`: byte-level BPE with the splits of GPT-2, Llama 3 and Qwen 2, and
/// SentencePiece's BPE with byte fallback. Any other kind is refused by name.
public final class Tokenizer: Sendable {
  private let vocabulary: Vocabulary
  private let normalizers: [Normalizer], splits: [Split]
  private let early: AddedTokens, late: AddedTokens  // found before and after normalization
  private let special: Set<Int>
  fileprivate let stripsSpace: Bool  // the first one of a text, which encoding put there

  public init(_ data: Data) throws {
    let root = try Json(data)
    let added = root["added_tokens"].items
    let decoders = steps(root["decoder"], "decoders").map { $0["type"].string ?? "" }
    let byteLevel = decoders == ["ByteLevel"], pieces = ["Replace", "ByteFallback", "Fuse"]
    stripsSpace = decoders == pieces + ["Strip"]
    guard byteLevel || stripsSpace || decoders == pieces else { throw refused("decoder \(decoders)") }

    let normalizers = try steps(root["normalizer"], "normalizers").map(Normalizer.init)
    let splitting = steps(root["pre_tokenizer"], "pretokenizers")
    guard byteLevel == (splitting.last?["type"].string == "ByteLevel") else { throw refused("decoder \(decoders)") }
    splits = try splitting.compactMap { try Split.read($0, normalizers) }
    self.normalizers = normalizers
    vocabulary = try Vocabulary(root["model"], added: added, byteLevel: byteLevel)
    early = try AddedTokens(added.filter { $0["normalized"].bool != true })
    late = try AddedTokens(added.filter { $0["normalized"].bool == true }, normalizers)
    special = Set(added.filter { $0["special"].bool == true }.compactMap(\.["id"].int))
  }

  /// The ids of a text, without those that a tokenizer puts before it.
  public func encode(_ text: String) -> [Int] {
    var ids: [Int] = []
    for part in early.parts(text) {
      guard case .text(let words) = part else { ids.append(part.id); continue }
      for part in late.parts(Normalizer.apply(normalizers, words)) {
        guard case .text(let words) = part else { ids.append(part.id); continue }
        let pieces = splits.reduce([words]) { pieces, split in pieces.flatMap(split.pieces) }
        for piece in pieces { vocabulary.encode(piece, &ids) }
      }
    }
    return ids
  }

  /// The text of ids. `special`: with that of special tokens.
  public func decode(_ ids: [Int], special: Bool = false) -> String {
    var decoder = TextDecoder(self, special: special)
    return ids.map { decoder.add($0) }.joined() + decoder.end()
  }

  fileprivate func bytes(_ id: Int, special: Bool) -> [UInt8] {
    special || !self.special.contains(id) ? vocabulary.bytes[id] ?? [] : []
  }
}

/// Ids to text, one by one: a character may span tokens, and comes with the last of them.
public struct TextDecoder {
  private let tokenizer: Tokenizer, special: Bool
  private var pending: [UInt8] = [], atStart = true

  public init(_ tokenizer: Tokenizer, special: Bool = false) { (self.tokenizer, self.special) = (tokenizer, special) }

  public mutating func add(_ id: Int) -> String {
    pending += tokenizer.bytes(id, special: special)
    if atStart, let first = pending.first {
      if tokenizer.stripsSpace, first == UInt8(ascii: " ") { pending.removeFirst() }
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
