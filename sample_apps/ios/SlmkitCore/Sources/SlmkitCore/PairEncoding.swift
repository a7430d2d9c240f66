/// Byte-pair encoding: which ids a piece of text begins with, and which pairs of them join.
struct PairEncoding {
  private let byteIds: [Int]  // of each byte; -1: it is left out
  private var characters: [Int: Int] = [:]  // by their code points
  private var merges: [UInt64: (rank: Int, id: Int)] = [:]
  private var whole: [[UInt8]: Int] = [:]  // pieces that are one token, however their pairs would join

  init(_ tokens: Tokens, _ texts: [[UInt8]]) {
    byteIds = tokens.byteIds
    for at in stride(from: 0, to: tokens.characters.count, by: 2) {
      characters[tokens.characters[at]] = tokens.characters[at + 1]
    }
    for at in stride(from: 0, to: tokens.merges.count, by: 3) {
      merges[Self.key(tokens.merges[at], tokens.merges[at + 1])] = (rank: at, id: tokens.merges[at + 2])
    }
    if tokens.wholeFirst { whole = Dictionary(zip(texts, texts.indices)) { first, _ in first } }
  }

  func ids(_ piece: String) -> [Int] { whole[Array(piece.utf8)].map { [$0] } ?? joined(symbols(piece)) }

  private func symbols(_ piece: String) -> [Int] {
    piece.unicodeScalars.flatMap { scalar in
      characters[Int(scalar.value)].map { [$0] } ?? UTF8.encode(scalar)!.map { byteIds[Int($0)] }.filter { $0 >= 0 }
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
}
