import CoreML
import Foundation
import SlmkitCore

/// The self-contained form of the coreml artifact: ids and a position in, logits out, the memory in Core ML's states.
final class CoreMLBackend: ModelBackend {
  private let export: Export
  private let prefill: Function?, decode: Function
  private var states: [MLState] = []

  /// The packages of one function, which run one after another.
  private struct Function { let tokens: Int, models: [MLModel] }

  /// `packages`: compiled, in the order of the manifest. Raises an error for the other forms of the artifact.
  init(_ export: Export, _ facts: CoreMLFacts, packages: [URL]) throws {
    guard facts.selfContained else {
      let inputs = export.inputs.map(\.name).joined(separator: ", ")
      throw SlmkitError("this app runs self-contained packages of coreml: ids and position in, not \(inputs)")
    }
    func load(_ name: String) throws -> Function? {
      try facts.functions[name].map { function in
        let configuration = MLModelConfiguration()
        configuration.functionName = name
        configuration.computeUnits = Self.units[facts.computeUnits] ?? .all
        return Function(
          tokens: function.tokens,
          models: try packages.map { try MLModel(contentsOf: $0, configuration: configuration) })
      }
    }
    guard let decode = try load("decode") else { throw SlmkitError("the artifact has no function decode") }
    (self.export, self.decode, prefill) = (export, decode, try load("prefill"))
  }

  private static let units: [String: MLComputeUnits] = [
    "all": .all, "cpu_and_ne": .cpuAndNeuralEngine, "cpu_and_gpu": .cpuAndGPU, "cpu_only": .cpuOnly,
  ]

  func logits(_ ids: ArraySlice<Int>, at position: Int) throws -> [Float] {
    if position == 0 { states = decode.models.map { $0.makeState() } }
    var rest = ids, at = position, found: [Float] = []
    while !rest.isEmpty {
      let whole = prefill.flatMap { export.reads(rest.count, at: at, by: $0.tokens) ? $0 : nil }
      let function = whole ?? decode, chunk = rest.prefix(function.tokens)
      rest = rest.dropFirst(chunk.count)
      let outputs = try run(function, chunk, at: at)
      if rest.isEmpty { found = try read(outputs, token: chunk.count - 1) }
      at += chunk.count
    }
    return found
  }

  /// What the filling of a chunk leaves in its slots, later tokens write over.
  private func run(_ function: Function, _ chunk: ArraySlice<Int>, at position: Int) throws -> any MLFeatureProvider {
    let filled = chunk.map { Int32($0) } + [Int32](repeating: 0, count: function.tokens - chunk.count)
    var values = [
      "ids": MLFeatureValue(shapedArray: MLShapedArray(scalars: filled, shape: [1, function.tokens])),
      "position": MLFeatureValue(shapedArray: MLShapedArray(scalars: [Int32(position)], shape: [1])),
    ]
    var outputs: any MLFeatureProvider = try MLDictionaryFeatureProvider(dictionary: [:])
    for (model, state) in zip(function.models, states) {
      let inputs = values.filter { model.modelDescription.inputDescriptionsByName[$0.key] != nil }
      outputs = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: inputs), using: state)
      values["hidden"] = outputs.featureValue(for: "hidden_out")  // enters the next package
    }
    return outputs
  }

  /// The logits of one token, out of all outputs that hold a part of the vocabulary.
  private func read(_ outputs: any MLFeatureProvider, token: Int) throws -> [Float] {
    try export.outputs.filter { $0.name.hasPrefix("logits") }.flatMap { output -> [Float] in
      guard let array = outputs.featureValue(for: output.name)?.multiArrayValue,
        let row = output.row(token, strides: array.strides.map(\.intValue))
      else { throw SlmkitError("the model gave no \(output.name)") }
      return try array.withUnsafeBytes { bytes in
        switch array.dataType {
        case .float16: return row.map { Float(bytes.bindMemory(to: Float16.self)[$0]) }
        case .float32: return row.map { bytes.bindMemory(to: Float.self)[$0] }
        default: throw SlmkitError("\(output.name) is neither float16 nor float32")
        }
      }
    }
  }
}
