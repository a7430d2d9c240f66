// The part of Foundation Models that the app calls, as signatures: the interface of iOS 27, for models of others.
// Sources: Apple's documentation of LanguageModel, LanguageModelExecutor, LanguageModelExecutorGenerationRequest and
// LanguageModelExecutorGenerationChannel; "Bring an LLM provider to the Foundation Models framework" (WWDC26, 339); and
// Apple's own conformance, CoreAILanguageModel.swift of github.com/apple/coreai-models.
import Foundation

@available(iOS 27.0, macOS 27.0, *) public protocol LanguageModel: Sendable {
  associatedtype Executor: LanguageModelExecutor where Self == Executor.Model
  var capabilities: LanguageModelCapabilities { get }
  var executorConfiguration: Executor.Configuration { get }
}
@available(iOS 27.0, macOS 27.0, *) public protocol LanguageModelExecutor: Sendable {
  associatedtype Configuration: Hashable, Sendable
  associatedtype Model: LanguageModel
  init(configuration: Configuration) throws
  func prewarm(model: Model, transcript: Transcript)
  func respond(
    to request: LanguageModelExecutorGenerationRequest, model: Model,
    streamingInto channel: LanguageModelExecutorGenerationChannel) async throws
}
@available(iOS 27.0, macOS 27.0, *) extension LanguageModelExecutor {
  public func prewarm(model: Model, transcript: Transcript) {}
}

@available(iOS 27.0, macOS 27.0, *) public struct LanguageModelCapabilities: Sendable {
  public struct Capability: Sendable, Hashable {}
  public init(_ capabilities: [Capability]) { fatalError() }
}
@available(iOS 27.0, macOS 27.0, *) public struct LanguageModelExecutorGenerationRequest: Sendable {
  public var transcript: Transcript
  public var generationOptions: GenerationOptions
}
@available(iOS 27.0, macOS 27.0, *) public struct LanguageModelExecutorGenerationChannel: Sendable {
  public struct Event: Sendable {
    public static func response(entryID: String? = nil, action: Response.Action) -> Event { fatalError() }
  }
  public struct Response: Sendable {
    public struct Action: Sendable {
      public static func appendText(_ text: String, segmentID: String? = nil, tokenCount: Int) -> Action { fatalError() }
      public static func updateUsage(input: Usage.Input, output: Usage.Output) -> Action { fatalError() }
    }
  }
  public struct Usage: Sendable {
    public struct Input: Sendable { public init(totalTokenCount: Int, cachedTokenCount: Int) { fatalError() } }
    public struct Output: Sendable { public init(totalTokenCount: Int, reasoningTokenCount: Int) { fatalError() } }
  }
  public func send(_ event: Event) async { fatalError() }
}

@available(iOS 26.0, macOS 26.0, *) public struct GenerationOptions: Sendable {
  public struct SamplingMode: Sendable {
    public enum Kind: Sendable {
      case greedy
      case randomTopK(Int, seed: UInt64?)
      case randomProbabilityThreshold(Double, seed: UInt64?)
    }
    @available(iOS 27.0, macOS 27.0, *) public var kind: Kind { fatalError() }
  }
  @available(iOS 27.0, macOS 27.0, *) public var samplingMode: SamplingMode?
  public var temperature: Double?
  public var maximumResponseTokens: Int?
}

@available(iOS 26.0, macOS 26.0, *) public struct Transcript: Sendable, RandomAccessCollection {
  public struct TextSegment: Sendable { public var content: String }
  public struct StructuredSegment: Sendable {}
  public enum Segment: Sendable {
    case text(TextSegment)
    case structure(StructuredSegment)
  }
  public struct Instructions: Sendable { public var segments: [Segment] }
  public struct Prompt: Sendable { public var segments: [Segment] }
  public struct Response: Sendable { public var segments: [Segment] }
  public struct ToolCalls: Sendable {}
  public enum Entry: Sendable {
    case instructions(Instructions)
    case prompt(Prompt)
    case toolCalls(ToolCalls)
    case response(Response)
  }
  public var startIndex: Int { fatalError() }
  public var endIndex: Int { fatalError() }
  public subscript(index: Int) -> Entry { fatalError() }
}

@available(iOS 26.0, macOS 26.0, *) public final class LanguageModelSession: Sendable {
  public struct Response<Content: Sendable>: Sendable { public let content: Content }
  @available(iOS 27.0, macOS 27.0, *) public convenience init(model: some LanguageModel) { fatalError() }
  public func respond(to prompt: String) async throws -> Response<String> { fatalError() }
}
