// The part of Core ML that the app calls, as signatures: it type-checks the app where there is no Core ML, and runs
// nothing. Source: the headers and the Swift overlay of iOS 18's SDK, by Apple's documentation of Core ML.
import Foundation

public enum MLComputeUnits: Int, Sendable { case cpuOnly = 0, cpuAndGPU = 1, all = 2, cpuAndNeuralEngine = 3 }
public enum MLMultiArrayDataType: Int, Sendable {
  case int32 = 131104, float16 = 65552, float32 = 65568, double = 65600
}

open class MLModelConfiguration: NSObject {
  open var computeUnits: MLComputeUnits { get { fatalError() } set {} }
  @available(iOS 18.0, macOS 15.0, *) open var functionName: String? { get { fatalError() } set {} }
}

public protocol MLShapedArrayScalar { static var multiArrayDataType: MLMultiArrayDataType { get } }
extension Int32: MLShapedArrayScalar { public static var multiArrayDataType: MLMultiArrayDataType { .int32 } }
extension Float: MLShapedArrayScalar { public static var multiArrayDataType: MLMultiArrayDataType { .float32 } }
public struct MLShapedArray<Scalar: MLShapedArrayScalar> {
  public init<S: Sequence>(scalars: S, shape: [Int]) where S.Element == Scalar { fatalError() }
}

open class MLMultiArray: NSObject {
  open var dataType: MLMultiArrayDataType { fatalError() }
  open var shape: [NSNumber] { fatalError() }
  open var strides: [NSNumber] { fatalError() }
  public func withUnsafeBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R { fatalError() }
}

open class MLFeatureValue: NSObject {
  public convenience init<Scalar: MLShapedArrayScalar>(shapedArray: MLShapedArray<Scalar>) { fatalError() }
  open var multiArrayValue: MLMultiArray? { fatalError() }
}
public protocol MLFeatureProvider {
  var featureNames: Set<String> { get }
  func featureValue(for featureName: String) -> MLFeatureValue?
}
open class MLDictionaryFeatureProvider: NSObject, MLFeatureProvider {
  public init(dictionary: [String: Any]) throws { fatalError() }
  public var featureNames: Set<String> { fatalError() }
  public func featureValue(for featureName: String) -> MLFeatureValue? { fatalError() }
}

open class MLFeatureDescription: NSObject {}
open class MLModelDescription: NSObject {
  open var inputDescriptionsByName: [String: MLFeatureDescription] { fatalError() }
}
@available(iOS 18.0, macOS 15.0, *) public final class MLState: NSObject, Sendable {}
open class MLModel: NSObject {
  public class func compileModel(at modelURL: URL) async throws -> URL { fatalError() }
  public init(contentsOf url: URL, configuration: MLModelConfiguration) throws { fatalError() }
  open var modelDescription: MLModelDescription { fatalError() }
  @available(iOS 18.0, macOS 15.0, *) public func makeState() -> MLState { fatalError() }
  @available(iOS 18.0, macOS 15.0, *)
  public func prediction(from inputFeatures: any MLFeatureProvider, using state: MLState) throws -> any MLFeatureProvider {
    fatalError()
  }
}
