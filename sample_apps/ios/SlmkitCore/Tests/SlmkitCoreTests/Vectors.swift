import Foundation
import XCTest

@testable import SlmkitCore

/// `slmkit-app-vectors/1`: what Python computed, for every kind of tokenizer.
struct Vectors: Decodable {
  struct Text: Decodable { let text: String, ids: [Int], decoded: String, shown: String }
  struct Chat: Decodable { let messages: [Message], text: String }
  struct Picks: Decodable {
    let logits: [Float], before: [Int], ids: [Int]
    let temperature: Double, topK: Int, topP: Double, repetitionPenalty: Double, seed: UInt64
  }
  struct Greedy: Decodable {
    struct Step: Decodable { let id: Int }
    let prompt: String, promptIds: [Int], steps: [Step], answer: String
  }
  let name: String, tokenizer: [Text], chat: [Chat], sampler: [Picks], greedy: [Greedy], stopIds: [Int]
}

/// A folder of vectors, with what an app has of the tokenizer.
struct Kind {
  let folder: URL
  func read<Value: Decodable>(_ type: Value.Type, _ name: String) throws -> Value {
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    return try decoder.decode(type, from: data(name))
  }
  func data(_ name: String) throws -> Data { try Data(contentsOf: folder.appendingPathComponent(name)) }
  func vectors() throws -> Vectors { try read(Vectors.self, "vectors.json") }
  func tokenizer() throws -> Tokenizer { try Tokenizer(data("tokens.json")) }
  func chat(_ day: Date = Date()) throws -> ChatForm { try ChatForm.read(data("chat.json"), today: day) }

  /// Those in the folder vectors of the project, else beside it.
  static let all: [Kind] = {
    let project = URL(fileURLWithPath: #filePath).appendingPathComponent("../../../..").standardizedFileURL
    let places = [project, project.deletingLastPathComponent()].map { $0.appendingPathComponent("vectors") }
    let root = places.first { FileManager.default.fileExists(atPath: $0.path) } ?? project
    let names = (try? FileManager.default.contentsOfDirectory(atPath: root.path)) ?? []
    return names.sorted().map { Kind(folder: root.appendingPathComponent($0)) }
      .filter { FileManager.default.fileExists(atPath: $0.folder.appendingPathComponent("vectors.json").path) }
  }()
  static func named(_ name: String) throws -> Kind {
    try XCTUnwrap(all.first { $0.folder.lastPathComponent == name }, "no vectors of \(name)")
  }
}

/// A model that says the ids of a list, one after the other, and remembers what it was asked.
final class Replay: ModelBackend {
  private let prompt: Int, answer: [Int], width: Int
  private let asked: (ArraySlice<Int>, Int) -> Void
  init(prompt: Int, answer: [Int], width: Int, asked: @escaping (ArraySlice<Int>, Int) -> Void = { _, _ in }) {
    (self.prompt, self.answer, self.width, self.asked) = (prompt, answer, width, asked)
  }
  func logits(_ ids: ArraySlice<Int>, at position: Int) throws -> [Float] {
    asked(ids, position)
    let step = position + ids.count - prompt
    guard answer.indices.contains(step) else { throw SlmkitError("step \(step) was not to come") }
    return (0..<width).map { $0 == answer[step] ? 1 : 0 }
  }
}
