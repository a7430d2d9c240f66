import Foundation

/// Picks the next token: the best one at temperature 0, else repetition penalty, temperature, top-k and top-p, in this
/// order. The random numbers are the same in every language of the sample apps.
public struct Sampler: Sendable {
  private let temperature: Double, topK: Int, topP: Double, repetitionPenalty: Double
  private var state: UInt64

  /// `topK`: tokens to sample from, 0 for all. `topP`: share of their probability.
  public init(temperature: Double = 0, topK: Int = 0, topP: Double = 1, repetitionPenalty: Double = 1, seed: UInt64 = 0)
  {
    (self.temperature, self.topK, self.topP, self.repetitionPenalty) = (temperature, topK, topP, repetitionPenalty)
    state = seed ^ 0x9E37_79B9_7F4A_7C15
    if state == 0 { state = 1 }
  }

  /// What the model's author sampled with.
  public init(_ author: Export.Generation, seed: UInt64) {
    self.init(
      temperature: author.doSample ? author.temperature : 0, topK: author.topK, topP: author.topP,
      repetitionPenalty: author.repetitionPenalty, seed: seed)
  }

  /// An id. `before`: the sequence so far, for the penalty.
  public mutating func pick(_ logits: [Float], before: [Int] = []) -> Int {
    var logits = logits
    let penalty = Float(repetitionPenalty)
    if penalty != 1 {
      for seen in Set(before) { logits[seen] = logits[seen] < 0 ? logits[seen] * penalty : logits[seen] / penalty }
    }
    guard temperature > 0 else { return best(logits, 1)[0] }
    let order = best(logits, topK > 0 ? topK : logits.count)
    let scaled = order.map { Double(logits[$0]) / temperature }
    let weights = scaled.map { exp($0 - scaled[0]) }
    let enough = topP * weights.reduce(0, +)
    var kept = 0, mass = 0.0
    repeat { mass += weights[kept]; kept += 1 } while mass < enough && kept < weights.count
    var left = Double(draw()) / Double(1 << 24) * mass
    for at in 0..<kept {
      left -= weights[at]
      if left < 0 { return order[at] }
    }
    return order[kept - 1]
  }

  /// The top 24 bits of xorshift64*. Source: Vigna 2016.
  private mutating func draw() -> UInt64 {
    state ^= state >> 12
    state ^= state << 25
    state ^= state >> 27
    return (state &* 0x2545_F491_4F6C_DD1D) >> 40
  }
}

/// The ids of the largest logits, the largest first; of equal ones the lower id.
func best(_ logits: [Float], _ count: Int) -> [Int] {
  guard count < 100 else {
    return Array(logits.indices.sorted { logits[$0] != logits[$1] ? logits[$0] > logits[$1] : $0 < $1 }.prefix(count))
  }
  var found: [Int] = []
  for id in logits.indices where found.count < count || logits[id] > logits[found[count - 1]] {
    if found.count == count { found.removeLast() }
    found.insert(id, at: found.firstIndex { logits[$0] < logits[id] } ?? found.count)
  }
  return found
}
