/// Tokens that are found in a text as they stand.
struct AddedTokens {
  private let tokens: [Unicode.Scalar: [(content: [Unicode.Scalar], token: Tokens.Added)]]  // by their first scalar

  /// `added`: of several that fit, the first one is found.
  init(_ added: [Tokens.Added]) {
    let found = added.map { (content: Array($0.content.unicodeScalars), token: $0) }
    tokens = Dictionary(grouping: found) { $0.content[0] }
  }

  /// The ids of a text. `between`: those of the text between the tokens.
  func ids(_ text: String, between: (String) -> [Int]) -> [Int] {
    let scalars = Array(text.unicodeScalars), space = { (scalar: Unicode.Scalar) in scalar.properties.isWhitespace }
    var found: [Int] = [], plain = 0, at = 0
    func words(upTo end: Int) {
      if plain < end { found += between(String(String.UnicodeScalarView(scalars[plain..<end]))) }
    }
    while at < scalars.count {
      guard let (content, token) = tokens[scalars[at]]?.first(where: { scalars[at...].starts(with: $0.content) }) else {
        at += 1
        continue
      }
      words(upTo: at - (token.lstrip ? scalars[plain..<at].reversed().prefix(while: space).count : 0))
      found.append(token.id)
      at += content.count
      plain = at + (token.rstrip ? scalars[at...].prefix(while: space).count : 0)
    }
    words(upTo: scalars.count)
    return found
  }
}
