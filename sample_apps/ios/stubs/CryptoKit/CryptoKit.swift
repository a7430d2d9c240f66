// The part of CryptoKit that the app calls, as signatures. Source: Apple's documentation of CryptoKit.
import Foundation

public struct SHA256Digest: Sequence { public func makeIterator() -> Array<UInt8>.Iterator { fatalError() } }
public struct SHA256 {
  public init() { fatalError() }
  public mutating func update<D: DataProtocol>(data: D) { fatalError() }
  public func finalize() -> SHA256Digest { fatalError() }
}
