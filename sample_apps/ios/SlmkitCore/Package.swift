// swift-tools-version:6.0
import PackageDescription

let package = Package(
  name: "SlmkitCore",
  platforms: [.iOS(.v18), .macOS(.v15)],
  products: [.library(name: "SlmkitCore", targets: ["SlmkitCore"])],
  targets: [
    .target(name: "SlmkitCore"),
    .testTarget(name: "SlmkitCoreTests", dependencies: ["SlmkitCore"]),
  ]
)
