import Foundation

/// A model in a runtime, which keeps the memory of one sequence.
public protocol ModelBackend: AnyObject {
  /// Logits (V) after the last of `ids`, which stand at `position` and later. What stood there before is forgotten.
  func logits(_ ids: ArraySlice<Int>, at position: Int) throws -> [Float]
}

/// A token of an answer. `text`: the characters that end with it.
public struct Token: Sendable, Equatable { public let id: Int, text: String }

/// A loaded model. One answer at a time: the actor's calls do not suspend.
public actor Generator {
  public nonisolated let export: Export, tokenizer: Tokenizer
  private let backend: any ModelBackend
  private var held: [Int] = []  // the ids in the backend's memory

  public init(_ export: Export, _ tokenizer: Tokenizer, backend: @Sendable () throws -> any ModelBackend) rethrows {
    (self.export, self.tokenizer) = (export, tokenizer)
    self.backend = try backend()
  }

  public typealias Answer = AsyncThrowingStream<Token, any Error>

  /// Streams an answer. To stop, end the loop that reads it, or cancel its task.
  public nonisolated func answer(_ prompt: [Int], _ sampler: Sampler, limit: Int = .max) -> Answer {
    Answer { stream in
      let task = Task {
        do {
          try await self.answer(prompt, sampler, limit) { stream.yield($0) }
          stream.finish()
        } catch { stream.finish(throwing: error) }
      }
      stream.onTermination = { _ in task.cancel() }
    }
  }

  private func answer(_ prompt: [Int], _ sampler: Sampler, _ limit: Int, _ each: (Token) -> Void) throws {
    guard !prompt.isEmpty, prompt.count < export.contextLength else {
      throw SlmkitError(
        "the conversation has \(prompt.count) tokens, and the model holds \(export.contextLength): start a new one")
    }
    var sampler = sampler, text = TextDecoder(tokenizer), sequence = prompt
    let most = prompt.count + min(limit, export.contextLength - prompt.count)
    while sequence.count < most, !Task.isCancelled {
      let id = sampler.pick(try logits(sequence), before: sequence)
      sequence.append(id)
      let isEnd = export.stopIds.contains(id)
      each(Token(id: id, text: isEnd ? text.end() : text.add(id)))
      if isEnd { return }
    }
    let rest = text.end()
    if !rest.isEmpty, let last = sequence.last { each(Token(id: last, text: rest)) }
  }

  /// Logits after a sequence; of what the memory holds already, nothing is computed again.
  private func logits(_ sequence: [Int]) throws -> [Float] {
    var kept = zip(held, sequence).prefix { $0 == $1 }.count
    if export.recurrent, kept < held.count { kept = 0 }
    kept = min(kept, sequence.count - 1)
    held = []  // after an error, nothing
    let found = try backend.logits(sequence[kept...], at: kept)
    held = sequence
    return found
  }

  /// Feeds a golden prompt and the reference's tokens, whatever the model says, and times it.
  public func replay(_ golden: Cases.Case) throws -> CaseReport {
    let clock = ContinuousClock(), start = clock.now
    var logits = try backend.logits(golden.promptIds[...], at: 0), rows = [try Row(logits, golden.steps[0])]
    let first = clock.now
    for (at, step) in golden.steps.dropLast().enumerated() {
      try Task.checkCancellation()
      logits = try backend.logits([step.id], at: golden.promptIds.count + at)
      rows.append(try Row(logits, golden.steps[at + 1]))
    }
    held = []
    return CaseReport(golden, rows, prefill: first - start, decode: clock.now - first)
  }
}
