#if canImport(FoundationModels, _version: 2)  // the SDK of iOS 27
  import FoundationModels
  import SlmkitCore

  /// The app's model behind the system's protocol: `LanguageModelSession(model: BundledLanguageModel(loaded))`.
  @available(iOS 27.0, macOS 27.0, *)
  struct BundledLanguageModel: LanguageModel {
    let loaded: LoadedModel
    init(_ loaded: LoadedModel) { self.loaded = loaded }

    var capabilities: LanguageModelCapabilities { LanguageModelCapabilities([]) }  // text in, text out
    var executorConfiguration: Executor.Configuration { .init(model: loaded.folder.export.model) }

    struct Executor: LanguageModelExecutor {
      typealias Model = BundledLanguageModel
      struct Configuration: Hashable, Sendable { let model: String }
      init(configuration: Configuration) throws {}

      func respond(
        to request: LanguageModelExecutorGenerationRequest, model: BundledLanguageModel,
        streamingInto channel: LanguageModelExecutorGenerationChannel
      ) async throws {
        let (loaded, options) = (model.loaded, request.generationOptions)
        let prompt = try loaded.chat.ids(request.transcript.compactMap(message), loaded.generator.tokenizer)
        let sampler = sampler(options, loaded.folder.export.generation)
        var count = 0
        for try await token in loaded.generator.answer(prompt, sampler, limit: options.maximumResponseTokens ?? .max) {
          count += 1
          await channel.send(.response(action: .appendText(token.text, tokenCount: 1)))
        }
        await channel.send(
          .response(
            action: .updateUsage(
              input: .init(totalTokenCount: prompt.count, cachedTokenCount: 0),
              output: .init(totalTokenCount: count, reasoningTokenCount: 0))))
      }

      private func message(_ entry: Transcript.Entry) -> Message? {
        switch entry {
        case .instructions(let instructions): Message("system", text(instructions.segments))
        case .prompt(let prompt): Message("user", text(prompt.segments))
        case .response(let response): Message("assistant", text(response.segments))
        default: nil  // tools and reasoning, which this model does not offer
        }
      }

      private func text(_ segments: [Transcript.Segment]) -> String {
        segments.map { if case .text(let text) = $0 { text.content } else { "" } }.joined()
      }

      /// What the caller asks for, else what the model's author sampled with.
      private func sampler(_ options: GenerationOptions, _ author: Export.Generation) -> Sampler {
        let random = UInt64.random(in: 0...UInt64.max), temperature = options.temperature ?? 1
        switch options.samplingMode?.kind {
        case .greedy: return Sampler()
        case .randomTopK(let count, let seed):
          return Sampler(temperature: temperature, topK: count, seed: seed ?? random)
        case .randomProbabilityThreshold(let share, let seed):
          return Sampler(temperature: temperature, topP: share, seed: seed ?? random)
        default:
          return options.temperature.map { Sampler(temperature: $0, seed: random) } ?? Sampler(author, seed: random)
        }
      }
    }
  }
#endif
