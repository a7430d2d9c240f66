import Observation
import SlmkitCore

/// The conversation on the screen.
@MainActor @Observable final class ChatModel {
  private(set) var messages: [Message] = []
  private(set) var status = ""
  private(set) var answering: Task<Void, Never>?

  func ask(_ words: String, _ model: LoadedModel) {
    guard answering == nil, !words.isEmpty else { return }
    messages.append(Message("user", words))
    answering = Task {
      do { try await answer(model) } catch { status = "\(error)" }
      answering = nil
    }
  }

  func stop() { answering?.cancel() }

  func clear() {
    stop()
    (messages, status) = ([], "")
  }

  private func answer(_ model: LoadedModel) async throws {
    let export = model.generator.export, clock = ContinuousClock(), start = clock.now
    let prompt = try model.chat.ids(messages, model.generator.tokenizer, room: export.contextLength / 2)
    var first: ContinuousClock.Instant?, count = 0
    messages.append(Message("assistant", ""))
    let seed = UInt64.random(in: 0...UInt64.max)
    for try await token in model.generator.answer(prompt, Sampler(export.generation, seed: seed)) {
      messages[messages.count - 1].content += token.text
      let now = clock.now, since = first ?? now
      (first, count) = (since, count + 1)
      let rate = count > 1 ? Double(count - 1) / ((now - since) / .seconds(1)) : 0
      status = "first token \(Int((since - start) / .milliseconds(1))) ms, then \(Int(rate)) tokens/s"
    }
  }
}
