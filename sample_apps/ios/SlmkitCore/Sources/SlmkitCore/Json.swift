import Foundation

/// A JSON value whose texts are bytes of UTF-8.
///
/// Two Swift strings are equal if they are canonically equivalent, and vocabularies have such tokens ("é" in one
/// scalar, and in two). Foundation's readers of JSON lose one of them.
enum Json {
  case object([(key: [UInt8], value: Json)]), array([Json]), text([UInt8]), number(Double), bool(Bool), null

  init(_ data: Data) throws {
    var reader = JsonReader(bytes: [UInt8](data))
    self = try reader.value()
    guard reader.next == nil else { throw reader.failure }
  }

  /// The value of a key; null if there is none, or if this is no object.
  subscript(key: String) -> Json { pairs.first { $0.key.elementsEqual(key.utf8) }?.value ?? .null }
  var items: [Json] { if case .array(let found) = self { found } else { [] } }
  var pairs: [(key: [UInt8], value: Json)] { if case .object(let found) = self { found } else { [] } }
  var bytes: [UInt8]? { if case .text(let found) = self { found } else { nil } }
  var string: String? { bytes.map { String(decoding: $0, as: UTF8.self) } }
  var int: Int? { if case .number(let found) = self { Int(exactly: found) } else { nil } }
  var bool: Bool? { if case .bool(let found) = self { found } else { nil } }
  var isNull: Bool { if case .null = self { true } else { false } }
}

private struct JsonReader {
  let bytes: [UInt8]
  var at = 0
  var failure: SlmkitError { SlmkitError("tokenizer.json is no JSON at byte \(at)") }

  /// The character that comes next, after white space.
  var next: Unicode.Scalar? {
    mutating get {
      while at < bytes.count, bytes[at] <= 0x20 { at += 1 }
      return at < bytes.count ? Unicode.Scalar(bytes[at]) : nil
    }
  }

  mutating func value() throws -> Json {
    switch next {
    case "{":
      return .object(
        try list("}") { reader in
          let key = reader.next == "\"" ? try reader.text() : []
          guard reader.next == ":" else { throw reader.failure }
          reader.at += 1
          return (key, try reader.value())
        })
    case "[": return .array(try list("]") { try $0.value() })
    case "\"": return .text(try text())
    default:
      let word = bytes[at...].prefix { $0 > 0x20 && !",]}".utf8.contains($0) }
      at += word.count
      switch String(decoding: word, as: UTF8.self) {
      case "true": return .bool(true)
      case "false": return .bool(false)
      case "null": return .null
      case let number:
        guard let value = Double(number) else { throw failure }
        return .number(value)
      }
    }
  }

  private mutating func list<Item>(_ end: Unicode.Scalar, _ item: (inout Self) throws -> Item) throws -> [Item] {
    var found: [Item] = [], open = true
    at += 1
    if next == end { open = false }
    while open {
      found.append(try item(&self))
      guard let byte = next, byte == end || byte == "," else { throw failure }
      open = byte == ","
      at += open ? 1 : 0
    }
    at += 1
    return found
  }

  private mutating func text() throws -> [UInt8] {
    let start = at
    repeat {
      at += at < bytes.count && bytes[at] == UInt8(ascii: "\\") ? 2 : 1
    } while at < bytes.count && bytes[at] != UInt8(ascii: "\"")
    guard at < bytes.count else { throw failure }
    at += 1
    let inside = bytes[start + 1..<at - 1]
    guard inside.contains(UInt8(ascii: "\\")) else { return Array(inside) }
    return Array(try JSONDecoder().decode(String.self, from: Data(bytes[start..<at])).utf8)
  }
}
