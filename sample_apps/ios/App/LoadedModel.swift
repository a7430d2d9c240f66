import CoreML
import CryptoKit
import Foundation
import SlmkitCore
import os

/// The app's model, checked and loaded.
struct LoadedModel: Sendable {
  let folder: ModelFolder, generator: Generator, chat: ChatForm
  let units: String, seconds: Double  // Core ML's compute units; of loading

  /// The model is the folder Model of the app's documents, if one was copied there, else that of its resources.
  static func load() async throws -> LoadedModel {
    let start = ContinuousClock.now, copied = place(.documentDirectory).appending(path: "Model")
    let isCopied = FileManager.default.fileExists(atPath: copied.path)
    guard let found = isCopied ? copied : Bundle.main.url(forResource: "Model", withExtension: nil) else {
      throw SlmkitError("the app has no model: copy a folder Model into its documents")
    }
    let folder = try ModelFolder(found), export = folder.export
    try export.checkRunnable()
    let free = os_proc_available_memory()  // 0 in the simulator, which does not know
    if free > 0 { try export.checkMemory(available: free) }
    try folder.check(sha256: hash)
    let facts = try folder.coreml(), packages = try await compile(folder, facts)
    let generator = try Generator(export, folder.tokenizer()) { try CoreMLBackend(export, facts, packages: packages) }
    let seconds = (ContinuousClock.now - start) / .seconds(1)
    return LoadedModel(
      folder: folder, generator: generator, chat: try folder.chat(), units: facts.computeUnits, seconds: seconds)
  }

  /// Compiles each package once: the app's cache keeps it, by the hash of the export's manifest.
  private static func compile(_ folder: ModelFolder, _ facts: CoreMLFacts) async throws -> [URL] {
    let cache = place(.cachesDirectory).appending(path: try hash(folder.manifest))
    try FileManager.default.createDirectory(at: cache, withIntermediateDirectories: true)
    var compiled: [URL] = []
    for package in facts.packages {
      let kept = cache.appending(path: "\(package.package).mlmodelc")
      if !FileManager.default.fileExists(atPath: kept.path) {
        let made = try await MLModel.compileModel(at: folder.files.appending(path: package.package))
        try FileManager.default.moveItem(at: made, to: kept)
      }
      compiled.append(kept)
    }
    return compiled
  }

  /// A folder of the app's own.
  static func place(_ name: FileManager.SearchPathDirectory) -> URL {
    FileManager.default.urls(for: name, in: .userDomainMask)[0]
  }

  private static func hash(_ file: URL) throws -> String {
    let handle = try FileHandle(forReadingFrom: file)
    defer { try? handle.close() }
    var hash = SHA256()
    while let part = try handle.read(upToCount: 1 << 20), !part.isEmpty { hash.update(data: part) }
    return hash.finalize().map { String(format: "%02x", $0) }.joined()
  }
}
