import Foundation

/// An error in words for the user.
public struct SlmkitError: Error, CustomStringConvertible {
  public let description: String
  public init(_ description: String) { self.description = description }
}

/// What an app needs of `slmkit-export.json`: the facts of one artifact, and its files.
public struct Export: Decodable, Sendable {
  public struct File: Decodable, Sendable { public let path: String, size: Int, sha256: String }
  public struct Tensor: Decodable, Sendable {
    public let name: String
    let shape: [Dimension]

    /// Where one token's numbers lie, by the strides of the tensor's axes; nil where no axis is the tokens'.
    public func row(_ token: Int, strides: [Int]) -> StrideTo<Int>? {
      let longest = shape.indices.max { shape[$0].size ?? 0 < shape[$1].size ?? 0 }
      guard let tokens = shape.firstIndex(where: { $0.size == nil }), let axis = longest, let size = shape[axis].size,
        strides.count == shape.count
      else { return nil }
      let start = token * strides[tokens]
      return stride(from: start, to: start + size * strides[axis], by: strides[axis])
    }
  }
  struct Dimension: Decodable, Sendable {
    let size: Int?  // nil: the number of tokens
    init(from decoder: any Decoder) throws { size = try? decoder.singleValueContainer().decode(Int.self) }
  }
  public struct Generation: Decodable, Sendable {
    public let doSample: Bool, temperature: Double, topP: Double, topK: Int, repetitionPenalty: Double
  }
  struct Layer: Decodable, Sendable { let kind: String }
  struct SequenceState: Decodable, Sendable { let states: [Layer] }

  public let schemaVersion: Int, model: String, artifact: String, format: String
  public let memory: Int  // bytes at the whole context
  public let contextLength: Int, stopIds: [Int], generation: Generation
  public let inputs: [Tensor], outputs: [Tensor], files: [File]
  private let state: SequenceState

  /// Whether a layer's memory can only go on: it has no slot for each position.
  public var recurrent: Bool { !state.states.isEmpty }

  /// Whether `count` tokens that are left to read go through a function of so many tokens, and not one by one. A chunk
  /// that they do not fill is filled up, which a memory without positions would keep.
  public func reads(_ count: Int, at position: Int, by tokens: Int) -> Bool {
    position + tokens <= contextLength && count > 1 && (count >= tokens || !recurrent)
  }

  /// Raises an error where this app has no runtime for the artifact.
  public func checkRunnable() throws {
    guard artifact != "coreml" else { return }
    let mlc = artifact == "mlc" ? ", MLC's engine (MLCSwift), whose library for iOS is built on a Mac" : ""
    throw SlmkitError(
      "\(artifact) needs a runtime for \(format)\(mlc); this app runs coreml: slmkit export --artifact coreml")
  }

  /// Raises an error where the system would end the app while it loads. `available`: bytes.
  public func checkMemory(available: Int) throws {
    let megabytes = { (bytes: Int) in (bytes + 999_999) / 1_000_000 }
    guard memory <= available else {
      throw SlmkitError("\(model) needs \(megabytes(memory)) MB, and \(megabytes(available)) MB are free for this app")
    }
  }
}

/// The facts of a coreml artifact that say how it is called.
public struct CoreMLFacts: Decodable, Sendable {
  public struct Package: Decodable, Sendable { public let package: String }
  public struct Function: Decodable, Sendable { public let tokens: Int }
  public let packages: [Package], functions: [String: Function], computeUnits: String, selfContained: Bool

  struct Manifest: Decodable { let facts: CoreMLFacts }
}

/// A folder with an export in `model/`, and the app's own `chat.json`, `cases.json` and `tokens.json` beside it.
public struct ModelFolder: Sendable {
  public let url: URL
  public let export: Export
  public var files: URL { url.appendingPathComponent("model") }
  public var manifest: URL { files.appendingPathComponent("slmkit-export.json") }

  public init(_ url: URL) throws {
    self.url = url
    export = try read(Export.self, url.appendingPathComponent("model/slmkit-export.json"))
    guard export.schemaVersion == 1 else {
      throw SlmkitError("slmkit-export.json has version \(export.schemaVersion), and this app reads 1: update the app")
    }
  }

  /// Compares every file with its size and hash. `sha256`: of a file, in hexadecimal.
  public func check(sha256: (URL) throws -> String) throws {
    for file in export.files {
      guard !file.path.hasPrefix("/"), !file.path.split(separator: "/").contains("..") else {
        throw SlmkitError("slmkit-export.json names a file outside of its folder: \(file.path)")
      }
      let place = files.appendingPathComponent(file.path)
      guard let size = try? place.resourceValues(forKeys: [.fileSizeKey]).fileSize else {
        throw SlmkitError("\(file.path) is missing: copy the whole folder again")
      }
      guard size == file.size, try sha256(place) == file.sha256 else {
        throw SlmkitError("\(file.path) is damaged: copy it again")
      }
    }
  }

  public func coreml() throws -> CoreMLFacts { try read(CoreMLFacts.Manifest.self, manifest).facts }
  public func tokenizer() throws -> Tokenizer { try Tokenizer(data(url.appendingPathComponent("tokens.json"))) }
  public func chat() throws -> ChatForm { try ChatForm.read(data(url.appendingPathComponent("chat.json"))) }
  public func cases() throws -> Cases { try read(Cases.self, url.appendingPathComponent("cases.json")) }
}

private func data(_ url: URL) throws -> Data {
  guard let data = try? Data(contentsOf: url) else { throw SlmkitError("\(url.lastPathComponent) is missing") }
  return data
}

private func read<Value: Decodable>(_ type: Value.Type, _ url: URL) throws -> Value {
  try decoded(type, data(url), of: url.lastPathComponent)
}

/// A value out of a JSON file that Python wrote. `name`: of the file, for an error.
func decoded<Value: Decodable>(_ type: Value.Type, _ data: Data, of name: String) throws -> Value {
  let decoder = JSONDecoder()
  decoder.keyDecodingStrategy = .convertFromSnakeCase
  do { return try decoder.decode(type, from: data) } catch { throw SlmkitError("\(name) has another form: \(error)") }
}
