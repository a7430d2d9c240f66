import Foundation

/// The tokens of a BPE model by their bytes, and which pairs of them join, in which order.
struct Vocabulary {
  /// The text of each id, as bytes.
  let bytes: [Int: [UInt8]]
  private let ids: [[UInt8]: Int]
  private let merges: [UInt64: (rank: Int, id: Int)]
  private let byteIds: [Int]  // of each single byte; -1: it has none
  private let byteLevel: Bool, wholeFirst: Bool

  init(_ model: Json, added: [Json], byteLevel: Bool) throws {
    let type = model["type"].string ?? "BPE"
    guard type == "BPE" else { throw refused("model \(type)") }
    for key in ["dropout", "continuing_subword_prefix", "end_of_word_suffix"] where !model[key].isNull {
      guard model[key].string == "" || model[key].int == 0 else { throw refused("model with \(key)") }
    }
    var ids: [[UInt8]: Int] = [:], bytes: [Int: [UInt8]] = [:]
    for (key, value) in model["vocab"].pairs {
      guard let id = value.int, id >= 0 else { throw refused("vocabulary, whose ids are no whole numbers") }
      let text = byteLevel ? Self.unmapped(key) : key
      ids[text] = id
      bytes[id] = byteLevel ? text : Self.shown(key)
    }
    for each in added {
      guard let id = each["id"].int, let text = each["content"].bytes else { continue }
      bytes[id] = byteLevel ? Self.unmapped(text) : Self.shown(text)
    }
    byteIds = try (0...255).map { byte in
      let name = byteLevel ? [UInt8(byte)] : Array(String(format: "<0x%02X>", byte).utf8)
      let isText = !(0xC0...0xC1).contains(byte) && byte < 0xF5  // others are in no UTF-8
      let mayLack = !isText || byteLevel && model["unk_token"].isNull  // SmolLM2 leaves such bytes out
      guard let id = ids[name] ?? (mayLack ? -1 : nil), byteLevel || model["byte_fallback"].bool == true else {
        throw refused("vocabulary, which has no token for byte \(byte)")
      }
      return id
    }
    var merges: [UInt64: (rank: Int, id: Int)] = [:]
    for (rank, pair) in model["merges"].items.enumerated() {
      let parts = try Self.parts(pair).map { byteLevel ? Self.unmapped($0) : $0 }
      guard let left = ids[parts[0]], let right = ids[parts[1]], let joined = ids[parts[0] + parts[1]] else {
        throw SlmkitError("tokenizer.json has a merge of tokens that are not in its vocabulary")
      }
      merges[Self.key(left, right)] = (rank, joined)
    }
    (self.ids, self.bytes, self.merges, self.byteLevel) = (ids, bytes, merges, byteLevel)
    wholeFirst = model["ignore_merges"].bool == true
  }

  /// Appends the ids of a piece.
  func encode(_ piece: String, _ found: inout [Int]) {
    if wholeFirst, let id = ids[Array(piece.utf8)] { return found.append(id) }
    found += joined(symbols(piece))
  }

  private func symbols(_ piece: String) -> [Int] {
    if byteLevel { return piece.utf8.map { byteIds[Int($0)] }.filter { $0 >= 0 } }
    return piece.unicodeScalars.flatMap { scalar in
      let text = Array(String(Character(scalar)).utf8)
      return ids[text].map { [$0] } ?? text.map { byteIds[Int($0)] }
    }
  }

  /// Joins the pair of lowest rank, the first one of several, until none is left.
  private func joined(_ symbols: [Int]) -> [Int] {
    var symbols = symbols
    func rank(_ at: Int) -> Int { merges[Self.key(symbols[at], symbols[at + 1])]?.rank ?? Int.max }
    var ranks = symbols.indices.dropLast().map(rank)
    while let best = ranks.min(), best < Int.max, let at = ranks.firstIndex(of: best) {
      symbols[at] = merges[Self.key(symbols[at], symbols[at + 1])]!.id
      symbols.remove(at: at + 1)
      ranks.remove(at: at)
      if at > 0 { ranks[at - 1] = rank(at - 1) }
      if at < ranks.count { ranks[at] = rank(at) }
    }
    return symbols
  }

  private static func key(_ left: Int, _ right: Int) -> UInt64 { UInt64(left) << 32 | UInt64(right) }

  /// "a b", or ["a", "b"].
  private static func parts(_ pair: Json) throws -> [[UInt8]] {
    let parts =
      pair.bytes.map { $0.split(separator: UInt8(ascii: " ")).map(Array.init) } ?? pair.items.compactMap(\.bytes)
    guard parts.count == 2 else { throw SlmkitError("tokenizer.json has a merge that is no pair") }
    return parts
  }

  /// What SentencePiece shows for a token: a byte, or text with spaces.
  private static func shown(_ token: [UInt8]) -> [UInt8] {
    let text = String(decoding: token, as: UTF8.self)
    if token.count == 6, text.hasPrefix("<0x"), text.hasSuffix(">"),
      let byte = UInt8(text.dropFirst(3).prefix(2), radix: 16)
    {
      return [byte]
    }
    return Array(text.replacingOccurrences(of: "\u{2581}", with: " ", options: .literal).utf8)
  }

  /// The bytes that byte-level BPE writes as printable characters; text of other characters stays.
  private static func unmapped(_ token: [UInt8]) -> [UInt8] {
    let scalars = String(decoding: token, as: UTF8.self).unicodeScalars
    let bytes = scalars.compactMap { $0.value < byteOf.count ? byteOf[Int($0.value)] : nil }
    return bytes.count == scalars.count ? bytes : token
  }

  /// By the scalar that stands for it: itself if it can be seen, else the next one above 255.
  private static let byteOf: [UInt8?] = {
    let seen = (0...255).map { (33...126).contains($0) || (161...172).contains($0) || $0 >= 174 }
    return (0...255).map { seen[$0] ? UInt8($0) : nil } + (0...255).filter { !seen[$0] }.map { UInt8($0) }
  }()
}
