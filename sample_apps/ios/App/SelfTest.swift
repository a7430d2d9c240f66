import Foundation
import Observation
import SlmkitCore

/// Replays the bundle's golden prompts on this phone, and compares with the float32 reference.
@MainActor @Observable final class SelfTest {
  private(set) var report: DeviceReport?
  private(set) var file: URL?  // the report as JSON, in the app's documents
  private(set) var running: Task<Void, Never>?

  func start(_ model: LoadedModel) {
    guard running == nil else { return }
    running = Task {
      await run(model)
      running = nil
    }
  }

  func stop() { running?.cancel() }

  private func run(_ model: LoadedModel) async {
    let export = model.folder.export, start = ContinuousClock.now
    let os = ProcessInfo.processInfo.operatingSystemVersionString
    var report = DeviceReport(
      export, device: ["model": Self.machine, "os": os], runtime: ["name": "Core ML", "compute_units": model.units],
      loadS: model.seconds)
    var failure: (any Error)?
    do {
      for each in try model.folder.cases().cases {
        report.add(try await model.generator.replay(each))
        self.report = report
      }
    } catch { failure = error }
    report.end(failure, wallS: (ContinuousClock.now - start) / .seconds(1), peakMb: Self.peakMegabytes)
    self.report = report
    let place = LoadedModel.place(.documentDirectory).appending(path: "report.json")
    if (try? report.json().write(to: place)) != nil { file = place }
  }

  /// Such as "iPhone17,1".
  private static var machine: String {
    var system = utsname()
    uname(&system)
    return withUnsafeBytes(of: system.machine) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
  }

  private static var peakMegabytes: Int {
    var usage = rusage()
    getrusage(0, &usage)  // RUSAGE_SELF, whose type differs between systems
    return usage.ru_maxrss / 1_000_000  // bytes on Apple's systems
  }
}
