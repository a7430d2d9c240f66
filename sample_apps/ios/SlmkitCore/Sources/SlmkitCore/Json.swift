import Foundation

/// A JSON value whose texts are bytes of UTF-8.
///
/// Two Swift strings are equal if they are canonically equivalent, and vocabularies have such tokens ("é" in one
/// scalar, and in two). JSONDecoder and JSONSerialization lose one of them.
enum Json {
  case object([(key: [UInt8], value: Json)])
  case array([Json])
  case text([UInt8])
  case number(Double)
  case bool(Bool)
  case null

  init(_ data: Data) throws {
    var reader = JsonReader(bytes: [UInt8](data))
    self = try reader.value()
    guard reader.next() == nil else { throw reader.failure }
  }

  /// The value of a key; null if there is none, or if this is no object.
  subscript(key: String) -> Json {
    guard case .object(let pairs) = self else { return .null }
    return pairs.first { $0.key.elementsEqual(key.utf8) }?.value ?? .null
  }
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

  /// The next byte that is no white space, without going on.
  mutating func next() -> UInt8? {
    while at < bytes.count, [0x20, 0x0A, 0x0D, 0x09].contains(bytes[at]) { at += 1 }
    return at < bytes.count ? bytes[at] : nil
  }

  mutating func value() throws -> Json {
    switch next() {
    case UInt8(ascii: "{"):
      return .object(try list(until: "}") { reader in
        guard reader.next() == UInt8(ascii: "\"") else { throw reader.failure }
        let key = try reader.text()
        guard reader.next() == UInt8(ascii: ":") else { throw reader.failure }
        reader.at += 1
        return (key, try reader.value())
      })
    case UInt8(ascii: "["): return .array(try list(until: "]") { try $0.value() })
    case UInt8(ascii: "\""): return .text(try text())
    default:
      let word = bytes[at...].prefix { !",]} \n\r\t".utf8.contains($0) }
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

  private mutating func list<T>(until end: Unicode.Scalar, of item: (inout JsonReader) throws -> T) throws -> [T] {
    var found: [T] = []
    at += 1
    if next() == UInt8(ascii: end) { at += 1; return found }
    while true {
      found.append(try item(&self))
      let byte = next()
      at += 1
      if byte == UInt8(ascii: end) { return found }
      guard byte == UInt8(ascii: ",") else { throw failure }
    }
  }

  private mutating func text() throws -> [UInt8] {
    let start = at + 1
    at = start
    var escaped = false
    while at < bytes.count, bytes[at] != UInt8(ascii: "\"") {
      if bytes[at] == UInt8(ascii: "\\") { escaped = true; at += 1 }
      at += 1
    }
    guard at < bytes.count else { throw failure }
    at += 1
    guard escaped else { return Array(bytes[start..<at - 1]) }
    let text = try JSONDecoder().decode(String.self, from: Data(bytes[start - 1..<at]))
    return Array(text.utf8)
  }
}
