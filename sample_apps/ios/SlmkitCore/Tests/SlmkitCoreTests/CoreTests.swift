import Foundation
import XCTest

@testable import SlmkitCore

/// An export as `slmkit export` writes it, with the fields that a test names.
func testExport(_ changes: [String: Any] = [:], stopIds: [Int] = [2]) throws -> Export {
  let values: [String: Any] = [
    "schema_version": 1, "slmkit": "1", "model": "home", "target": "ios", "artifact": "coreml", "format": "ML Program",
    "devices": [], "memory": 5_000_000, "context_length": 256, "stop_ids": stopIds,
    "generation": [
      "do_sample": false, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0, "by_author": false,
    ],
    "inputs": [["name": "ids", "dtype": "int32", "shape": [1, "tokens"], "about": ""]],
    "outputs": [["name": "logits_0", "dtype": "float16", "shape": [1, 1024, 1, "tokens"], "about": ""]],
    "state": ["context_length": 256, "attention_layers": [0], "kv_heads": 2, "head_width": 32, "states": []],
    "facts": [
      "packages": [["package": "model.mlpackage"]], "functions": ["decode": ["tokens": 1]], "compute_units": "all",
    ],
    "files": [["path": "model.bin", "size": 3, "sha256": "abc", "role": nil]] as [[String: Any?]],
  ]
  let data = try JSONSerialization.data(withJSONObject: values.merging(changes) { $1 })
  let decoder = JSONDecoder()
  decoder.keyDecodingStrategy = .convertFromSnakeCase
  return try decoder.decode(Export.self, from: data)
}

final class CoreTests: XCTestCase {
  private func assertRefused(_ words: String, _ code: () throws -> Void) {
    XCTAssertThrowsError(try code()) { XCTAssertTrue("\($0)".contains(words), "\($0)") }
  }

  func testTokensOfAnotherFormAreRefused() throws {
    let home = String(decoding: try Kind.named("home").data("tokens.json"), as: UTF8.self)
    assertRefused("has the format slmkit-app-tokens/9") {
      _ = try Tokenizer(Data(home.replacing("slmkit-app-tokens/1", with: "slmkit-app-tokens/9").utf8))
    }
    assertRefused("tokens.json has another form") { _ = try Tokenizer(Data(home.dropLast(9).utf8)) }
  }

  func testACharacterComesWithItsLastToken() throws {
    let tokenizer = try Kind.named("home").tokenizer(), ids = tokenizer.encode("日本🎉")
    var decoder = TextDecoder(tokenizer)
    let parts = ids.map { decoder.add($0) }
    XCTAssertEqual(parts.joined(), "日本🎉")
    XCTAssertFalse(parts.joined().contains("\u{fffd}"))
    XCTAssertGreaterThan(ids.count, 3)
    XCTAssertEqual(decoder.add(ids[0]) + decoder.end(), "\u{fffd}")
  }

  func testOnlyCoremlRunsAndOthersAreNamed() throws {
    XCTAssertNoThrow(try testExport().checkRunnable())
    assertRefused("MLC") { try testExport(["artifact": "mlc", "facts": ["params": 1]]).checkRunnable() }
    assertRefused("a runtime for TFLite") {
      try testExport(["artifact": "litert", "format": "TFLite"]).checkRunnable()
    }
  }

  func testAPromptIsReadInChunksWithinTheContext() throws {
    let (plain, recurrent) = (try testExport(), try testExport(["state": ["states": [["kind": "scan"]]]]))
    XCTAssertTrue(plain.reads(64, at: 192, by: 64) && recurrent.reads(64, at: 192, by: 64))
    XCTAssertFalse(plain.reads(64, at: 193, by: 64))
    XCTAssertFalse(plain.reads(1, at: 0, by: 64))
    XCTAssertTrue(plain.reads(2, at: 0, by: 64))
    XCTAssertFalse(recurrent.reads(63, at: 0, by: 64))
  }

  func testOneTokenSLogitsLieInARowOrAColumn() throws {
    func row(_ shape: [Any], _ strides: [Int]) throws -> [Int]? {
      try testExport(["outputs": [["name": "logits", "shape": shape]]]).outputs[0].row(2, strides: strides).map(
        Array.init)
    }
    XCTAssertEqual(try row([1, 3, 1, "tokens"], [96, 32, 32, 1]), [2, 34, 66])  // rows of the Neural Engine, filled up
    XCTAssertEqual(try row([1, "tokens", 3], [12, 3, 1]), [6, 7, 8])
    XCTAssertNil(try row([1, 3, 1, 4], [12, 4, 4, 1]))
    XCTAssertNil(try row([1, "tokens", 3], [3, 1]))
  }

  func testOldTurnsLeaveALongConversation() throws {
    let gemma = try Kind.named("gemma"), (tokenizer, form) = (try gemma.tokenizer(), try gemma.chat())
    let turns = ["system", "user", "assistant", "user"].map { Message($0, "the lights of the \($0)") }
    let (whole, short) = (try form.ids(turns, tokenizer), try form.ids([turns[0], turns[3]], tokenizer))
    XCTAssertEqual(try form.ids(turns, tokenizer, room: whole.count), whole)
    XCTAssertEqual(try form.ids(turns, tokenizer, room: whole.count - 1), short)
    XCTAssertEqual(try form.ids(turns, tokenizer, room: 1), short)
    let raw = try ChatForm.read(Data(#"{"refused": "it has none", "start_ids": [2]}"#.utf8))
    XCTAssertEqual(try raw.ids(turns, tokenizer), [2] + tokenizer.encode(turns[3].content))
    assertRefused("it has none") { _ = try raw.render(turns) }
  }

  func testMemoryIsGuarded() throws {
    XCTAssertNoThrow(try testExport().checkMemory(available: 5_000_000))
    assertRefused("home needs 5 MB, and 4 MB are free") { try testExport().checkMemory(available: 3_999_999) }
  }

  func testFilesAreChecked() throws {
    let root = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
    let model = root.appendingPathComponent("model")
    defer { try? FileManager.default.removeItem(at: root) }
    try FileManager.default.createDirectory(at: model, withIntermediateDirectories: true)
    assertRefused("slmkit-export.json is missing") { _ = try ModelFolder(root) }
    func write(_ path: String, version: Int = 1) throws -> ModelFolder {
      let file: [String: Any] = ["path": path, "size": 3, "sha256": "abc"]
      let values: [String: Any] = [
        "schema_version": version, "model": "m", "artifact": "coreml", "format": "f", "memory": 1, "context_length": 8,
        "stop_ids": [1], "inputs": [], "outputs": [], "state": ["states": []], "facts": [:],
        "generation": ["do_sample": true, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "repetition_penalty": 1.1],
        "files": [file],
      ]
      try JSONSerialization.data(withJSONObject: values).write(to: model.appendingPathComponent("slmkit-export.json"))
      return try ModelFolder(root)
    }
    assertRefused("version 2") { _ = try write("a", version: 2) }
    assertRefused("outside") { try write("../a").check { _ in "abc" } }
    assertRefused("a is missing") { try write("a").check { _ in "abc" } }
    try Data("four".utf8).write(to: model.appendingPathComponent("a"))
    assertRefused("a is damaged") { try write("a").check { _ in "abc" } }
    try Data("abc".utf8).write(to: model.appendingPathComponent("a"))
    assertRefused("a is damaged") { try write("a").check { _ in "abd" } }
    XCTAssertNoThrow(try write("a").check { _ in "abc" })
    assertRefused("tokens.json is missing") { _ = try write("a").tokenizer() }
  }

  func testASecondTurnFeedsOnlyWhatIsNew() async throws {
    let tokenizer = try Kind.named("home").tokenizer()
    for (states, expected) in [
      ([], [[0, 3], [3, 1], [4, 1], [4, 3]]), ([["kind": "conv"]], [[0, 3], [3, 1], [4, 1], [0, 7]]),
    ] {
      let calls = Calls()
      let export = try testExport(["state": ["states": states]])
      let generator = Generator(export, tokenizer) {
        Replay(prompt: 3, answer: [7, 8, 2, 0, 2], width: 9) { calls.list.append([$1, $0.count]) }
      }
      for try await _ in generator.answer([5, 5, 6], Sampler()) {}
      for try await _ in generator.answer([5, 5, 6, 7, 1, 1, 1], Sampler()) {}
      XCTAssertEqual(calls.list, expected)
    }
  }

  func testALongConversationIsRefused() async throws {
    let generator = Generator(try testExport(["context_length": 4]), try Kind.named("home").tokenizer()) {
      Replay(prompt: 3, answer: [7, 7], width: 9)
    }
    do {
      for try await _ in generator.answer([1, 1, 1, 1], Sampler()) {}
      XCTFail("a prompt that fills the context was taken")
    } catch { XCTAssertTrue("\(error)".contains("has 4 tokens"), "\(error)") }
    var said = 0
    for try await _ in generator.answer([1, 1, 1], Sampler()) { said += 1 }
    XCTAssertEqual(said, 1, "an answer ends with the context")
  }

  func testAnAnswerCanBeStopped() async throws {
    let calls = Calls()
    let generator = Generator(try testExport(["context_length": 1_000_000]), try Kind.named("home").tokenizer()) {
      Endless { calls.list.append([]) }
    }
    for try await _ in generator.answer([1], Sampler()) where calls.list.count > 3 { break }
    let seen = calls.list.count
    for try await _ in generator.answer([1], Sampler(), limit: 2) {}
    XCTAssertLessThan(calls.list.count - seen, 10_000, "the first answer went on")
  }

  func testTheSelfTestComparesWithTheReference() async throws {
    let home = try Kind.named("home"), golden = try home.read(Cases.self, "cases.json"),
      tokenizer = try home.tokenizer()
    XCTAssertGreaterThan(golden.cases.count, 0)
    for (offset, greedy, low, high) in [(Float(0), 1.0, 100.0, 400.0), (0.1, 1, 30, 50)] {
      let generator = Generator(try testExport(), tokenizer) { Echo(golden, offset) }
      let file: [String: Any?] = ["path": "modelOf/aFile.bin", "size": 3, "sha256": "abc", "role": nil]
      var report = DeviceReport(
        try testExport(["files": [file]]), device: ["model": "Linux"], runtime: ["name": "echo"], loadS: 1)
      for each in golden.cases { report.add(try await generator.replay(each)) }
      report.end(nil, wallS: 2, peakMb: 3)
      XCTAssertEqual(report.greedy, greedy)
      let db = try XCTUnwrap(report.db)
      XCTAssertTrue((low...high).contains(db), "\(db) dB")
      let json = try XCTUnwrap(JSONSerialization.jsonObject(with: report.json()) as? [String: Any])
      XCTAssertEqual(json["format"] as? String, "slmkit-device-report/1")
      XCTAssertEqual(json["executed"] as? Bool, true)
      XCTAssertEqual(json["files"] as? [String: String], ["modelOf/aFile.bin": "abc"])
      let first = try XCTUnwrap((json["cases"] as? [[String: Any]])?.first)
      XCTAssertEqual(
        Set(first.keys), ["name", "greedy", "db", "ttft_ms", "prefill_tps", "decode_tps", "rows"])
      XCTAssertEqual((first["rows"] as? [[String: Any]])?.count, golden.cases[0].steps.count)
    }
    let broken = Generator(try testExport(), tokenizer) { Echo(golden, .nan) }
    do {
      _ = try await broken.replay(golden.cases[0])
      XCTFail("logits that are not finite passed")
    } catch { XCTAssertEqual("\(error)", "logits are not finite") }
  }
}

private final class Calls: @unchecked Sendable { var list: [[Int]] = [] }

/// A model whose answer never ends.
private final class Endless: ModelBackend {
  let asked: () -> Void
  init(_ asked: @escaping () -> Void) { self.asked = asked }
  func logits(_ ids: ArraySlice<Int>, at position: Int) throws -> [Float] {
    asked()
    return [0, 1, 0]
  }
}

/// A model that says what the reference said, with an error on every logit.
private final class Echo: ModelBackend {
  private let golden: Cases, error: Float
  private var sequence: [Int] = []
  init(_ golden: Cases, _ error: Float) { (self.golden, self.error) = (golden, error) }
  func logits(_ ids: ArraySlice<Int>, at position: Int) throws -> [Float] {
    sequence = Array(sequence.prefix(position) + ids)
    for each in golden.cases where sequence.starts(with: each.promptIds) {
      let fed = sequence.count - each.promptIds.count
      guard each.steps.prefix(fed).map(\.id).elementsEqual(sequence.suffix(fed)) else { continue }
      var logits = [Float](repeating: -100, count: 1024)
      for pair in each.steps[fed].top { logits[Int(pair[0])] = Float(pair[1]) + error }
      return logits
    }
    throw SlmkitError("no case has this sequence")
  }
}
