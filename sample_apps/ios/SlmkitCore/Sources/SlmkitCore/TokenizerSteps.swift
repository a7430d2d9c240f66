import Foundation

/// The steps of a normalizer, pre-tokenizer or decoder, which may be one, several or none.
func steps(_ json: Json, _ key: String) -> [Json] {
  json.isNull ? [] : json["type"].string == "Sequence" ? json[key].items : [json]
}

func refused(_ what: String) -> SlmkitError {
  SlmkitError("this app has no code for the tokenizer's \(what); it reads byte-level BPE and SentencePiece's BPE")
}

/// A step that changes the text.
enum Normalizer {
  case nfc, prepend(String), replace(String, String)

  init(_ json: Json) throws {
    switch json["type"].string {
    case "NFC": self = .nfc
    case "Prepend": self = .prepend(json["prepend"].string ?? "")
    case "Replace":
      guard let old = json["pattern"]["String"].string, let new = json["content"].string else {
        throw refused("normalizer Replace with a regular expression")
      }
      self = .replace(old, new)
    case let other: throw refused("normalizer \(other ?? "without a type")")
    }
  }

  static func apply(_ steps: [Normalizer], _ text: String) -> String {
    steps.reduce(text) { text, step in
      switch step {
      case .nfc: text.precomposedStringWithCanonicalMapping
      case .prepend(let start): text.isEmpty ? text : start + text
      case .replace(let old, let new): text.replacingOccurrences(of: old, with: new, options: .literal)
      }
    }
  }
}

/// A step that cuts the text into pieces, which are the matches of an expression: no token crosses from one to another.
struct Split {
  private let expression: NSRegularExpression

  private static let gpt2 = #"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"#
  private static let modern =
    #"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"#
  private static let known = [
    gpt2, modern.replacing("DIGITS", with: #"\p{N}{1,3}"#), modern.replacing("DIGITS", with: #"\p{N}"#),
  ]

  /// nil: a step that cuts nothing.
  static func read(_ json: Json, _ normalizers: [Normalizer]) throws -> Split? {
    switch json["type"].string {
    case "ByteLevel":
      guard json["add_prefix_space"].bool == false else { throw refused("ByteLevel with add_prefix_space") }
      return json["use_regex"].bool == false ? nil : try Split(gpt2)
    case "Digits":
      return try Split(json["individual_digits"].bool == true ? #"\p{N}|[^\p{N}]+"# : #"\p{N}+|[^\p{N}]+"#)
    case "Split":
      let text = json["pattern"]["Regex"].string ?? json["pattern"]["String"].string ?? "nothing"
      if text == " ", normalizers.contains(where: { if case .replace(" ", _) = $0 { true } else { false } }) {
        return nil
      }
      guard known.contains(text), json["behavior"].string == "Isolated", json["invert"].bool != true else {
        throw refused("split by \(text)")
      }
      return try Split(text)
    case let other: throw refused("pre-tokenizer \(other ?? "without a type")")
    }
  }

  /// Rust's \s is Unicode's White_Space; that of ICU, which reads the expression here, is another set.
  private init(_ pattern: String) throws {
    let exact = pattern.replacing(#"\s"#, with: #"\p{White_Space}"#).replacing(#"\S"#, with: #"\P{White_Space}"#)
    expression = try NSRegularExpression(pattern: exact)
  }

  func pieces(_ text: String) -> [String] {
    let all = NSString(string: text)
    return expression.matches(in: text, range: NSRange(location: 0, length: all.length)).map {
      all.substring(with: $0.range)
    }
  }
}

/// Tokens that are found in a text as they stand, the longest first.
struct AddedTokens {
  enum Part {
    case text(String), token(Int)
    var id: Int { if case .token(let id) = self { id } else { -1 } }
  }
  private struct Token { let content: [Unicode.Scalar], id: Int, takesLeft: Bool, takesRight: Bool }
  private let tokens: [Unicode.Scalar: [Token]]  // by their first scalar

  /// `normalizers`: through which the text went, in which they are found.
  init(_ added: [Json], _ normalizers: [Normalizer] = []) throws {
    let found = try added.compactMap { each -> Token? in
      guard each["single_word"].bool != true else { throw refused("added token of a single word") }
      guard let content = each["content"].string, let id = each["id"].int, !content.isEmpty else { return nil }
      guard Normalizer.apply(normalizers, content).utf8.elementsEqual(content.utf8) else {
        throw refused("added token \(content), which its normalizer changes")
      }
      let (left, right) = (each["lstrip"].bool == true, each["rstrip"].bool == true)
      return Token(content: Array(content.unicodeScalars), id: id, takesLeft: left, takesRight: right)
    }
    tokens = Dictionary(grouping: found) { $0.content[0] }.mapValues {
      $0.sorted { $0.content.count > $1.content.count }
    }
  }

  /// The text between tokens, and tokens with the white space that they take.
  func parts(_ text: String) -> [Part] {
    let scalars = Array(text.unicodeScalars), space = { (scalar: Unicode.Scalar) in scalar.properties.isWhitespace }
    var found: [Part] = [], plain = 0, at = 0
    func words(upTo end: Int) {
      if plain < end { found.append(.text(String(String.UnicodeScalarView(scalars[plain..<end])))) }
    }
    while at < scalars.count {
      guard let token = tokens[scalars[at]]?.first(where: { scalars[at...].starts(with: $0.content) }) else {
        at += 1
        continue
      }
      var start = at
      at += token.content.count
      if token.takesLeft { while start > plain, space(scalars[start - 1]) { start -= 1 } }
      words(upTo: start)
      found.append(.token(token.id))
      plain = at
      if token.takesRight { plain += scalars[at...].prefix(while: space).count }
    }
    words(upTo: scalars.count)
    return found
  }
}
