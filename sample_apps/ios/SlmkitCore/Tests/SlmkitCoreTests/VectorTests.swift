import Foundation
import XCTest

@testable import SlmkitCore

/// The same vectors as Python's and Kotlin's tests.
final class VectorTests: XCTestCase {
  private let day = DateComponents(calendar: Calendar(identifier: .gregorian), year: 2026, month: 1, day: 1).date!

  func testEveryKindIsThere() {
    let names = Set(Kind.all.map(\.folder.lastPathComponent))
    XCTAssertTrue(names.isSuperset(of: ["home", "gpt2", "llama3", "qwen2", "gemma", "phi3"]), "\(names)")
  }

  func testTokenizersEncode() throws {
    for kind in Kind.all {
      let (tokenizer, vectors) = (try kind.tokenizer(), try kind.vectors())
      for each in vectors.tokenizer {
        XCTAssertEqual(tokenizer.encode(each.text), each.ids, "\(vectors.name): \(each.text.debugDescription)")
      }
    }
  }

  func testTokenizersDecode() throws {
    for kind in Kind.all {
      let (tokenizer, vectors) = (try kind.tokenizer(), try kind.vectors())
      for each in vectors.tokenizer {
        assertSame(tokenizer.decode(each.ids, special: true), each.decoded, vectors.name)
        assertSame(tokenizer.decode(each.ids), each.shown, vectors.name)
      }
    }
  }

  func testChatsAreRendered() throws {
    for kind in Kind.all {
      let (form, vectors) = (try kind.chat(day), try kind.vectors())
      for each in vectors.chat { assertSame(try form.render(each.messages), each.text, vectors.name) }
    }
  }

  func testSamplersPick() throws {
    for kind in Kind.all {
      for each in try kind.vectors().sampler {
        var sampler = Sampler(
          temperature: each.temperature, topK: each.topK, topP: each.topP, repetitionPenalty: each.repetitionPenalty,
          seed: each.seed)
        var sequence = each.before
        for _ in each.ids { sequence.append(sampler.pick(each.logits, before: sequence)) }
        XCTAssertEqual(Array(sequence.dropFirst(each.before.count)), each.ids, "temperature \(each.temperature)")
      }
    }
  }

  func testPromptsAndAnswers() async throws {
    for kind in Kind.all {
      let (tokenizer, form, vectors) = (try kind.tokenizer(), try kind.chat(day), try kind.vectors())
      for each in vectors.greedy {
        let prompt = try form.ids([Message("user", each.prompt)], tokenizer), steps = each.steps.map(\.id)
        XCTAssertEqual(prompt, each.promptIds)
        let generator = try Generator(testExport(stopIds: vectors.stopIds), tokenizer) {
          Replay(prompt: prompt.count, answer: steps, width: 1024)
        }
        var said: [Token] = []
        for try await token in generator.answer(prompt, Sampler()) { said.append(token) }
        XCTAssertEqual(said.map(\.id), steps)
        XCTAssertEqual(said.map(\.text).joined(), each.answer)
      }
    }
  }

  /// Equal strings may differ in their scalars.
  private func assertSame(_ found: String, _ wanted: String, _ name: String) {
    XCTAssertEqual(Array(found.unicodeScalars), Array(wanted.unicodeScalars), "\(name): \(wanted.debugDescription)")
  }
}
