import Foundation

/// `cases.json`: golden prompts, and what the float32 reference says at every step.
public struct Cases: Decodable, Sendable {
  public struct Case: Decodable, Sendable { public let name: String, promptIds: [Int], steps: [Step] }
  /// `top`: the best ids with their logits, the best one first.
  public struct Step: Decodable, Sendable { let id: Int, top: [[Double]] }
  public let cases: [Case]
}

/// The best ids of one step, their logits, and the log of the sum of exp over the vocabulary.
public struct Row: Encodable, Sendable {
  public let ids: [Int], logits: [Float], norm: Double
  let same: Bool, signal: Double, noise: Double  // against the reference, on its best ids

  init(_ all: [Float], _ step: Cases.Step) throws {
    ids = best(all, 8)
    logits = ids.map { all[$0] }
    let most = Double(logits[0])
    norm = most + log(all.reduce(0) { $0 + exp(Double($1) - most) })
    guard norm.isFinite else { throw SlmkitError("logits are not finite") }
    same = Double(ids[0]) == step.top[0][0]
    signal = step.top.reduce(0) { $0 + $1[1] * $1[1] }
    noise = step.top.reduce(0) { $0 + pow($1[1] - Double(all[Int($1[0])]), 2) }
  }
  enum CodingKeys: String, CodingKey { case ids, logits, norm }
}

/// A share of steps whose best id is the reference's, and how near the logits of its best ids are, in dB.
private func agreement(_ rows: [Row]) -> (greedy: Double, db: Double) {
  let signal = rows.reduce(0) { $0 + $1.signal }, noise = rows.reduce(0) { $0 + $1.noise }
  let greedy = Double(rows.count(where: \.same)) / Double(max(rows.count, 1))
  return (greedy, 10 * log10(max(signal, 1e-30) / max(noise, 1e-30)))
}

public struct CaseReport: Encodable, Sendable {
  public let name: String, greedy: Double, db: Double, ttftMs: Double, prefillTps: Double, decodeTps: Double
  let rows: [Row]

  init(_ golden: Cases.Case, _ rows: [Row], prefill: Duration, decode: Duration) {
    (name, self.rows) = (golden.name, rows)
    (greedy, db) = agreement(rows)
    ttftMs = prefill / .milliseconds(1)
    prefillTps = Double(golden.promptIds.count) / max(prefill / .seconds(1), 1e-9)
    decodeTps = Double(rows.count - 1) / max(decode / .seconds(1), 1e-9)
  }
}

/// `slmkit-device-report/1`: a run of all cases on a device.
public struct DeviceReport: Encodable, Sendable {
  let format = "slmkit-device-report/1", model: String, artifact: String
  let device: [String: String], runtime: [String: String], loadS: Double
  let files: [String: String]  // SHA-256 of what ran, by path: loading has compared them
  public private(set) var executed = false, greedy: Double?, db: Double?
  public private(set) var cases: [CaseReport] = [], errors: [String] = []
  private var wallS: Double?, peakMb: Int?

  public init(_ export: Export, device: [String: String], runtime: [String: String], loadS: Double) {
    (model, artifact, self.device, self.runtime, self.loadS) = (export.model, export.artifact, device, runtime, loadS)
    files = Dictionary(export.files.map { ($0.path, $0.sha256) }) { first, _ in first }
  }

  public mutating func add(_ found: CaseReport) {
    cases.append(found)
    let all = agreement(cases.flatMap(\.rows))
    (greedy, db) = (all.greedy, all.db)
  }

  /// Ends the run. `error`: why there are no more cases, if it could not be finished. `wallS`: seconds of the cases.
  public mutating func end(_ error: (any Error)?, wallS: Double, peakMb: Int) {
    (executed, errors) = (error == nil, error.map { ["\($0)"] } ?? [])
    (self.wallS, self.peakMb) = (wallS, peakMb)
  }

  public func json() throws -> Data {
    let encoder = JSONEncoder()
    encoder.keyEncodingStrategy = .convertToSnakeCase
    encoder.outputFormatting = [.sortedKeys]
    return try encoder.encode(self)
  }
}
