// The part of SwiftUI that the app calls, as signatures: it type-checks the app where there is no SwiftUI, and shows
// nothing. Source: Apple's documentation of SwiftUI.
@_exported import Foundation
@_exported import Observation

@MainActor @preconcurrency public protocol View {
  associatedtype Body: View
  @ViewBuilder @MainActor @preconcurrency var body: Body { get }
}
extension Never: View { public var body: Never { return fatalError() } }
public protocol Leaf: View where Body == Never {}
extension Leaf { public var body: Never { return fatalError() } }

@resultBuilder public enum ViewBuilder {
  public static func buildExpression<V: View>(_ view: V) -> V { view }
  public static func buildBlock<V: View>(_ view: V) -> V { view }
  public static func buildBlock() -> EmptyView { fatalError() }
  public static func buildBlock<each V: View>(_ view: repeat each V) -> TupleView<(repeat each V)> { fatalError() }
  public static func buildIf<V: View>(_ view: V?) -> V? { view }
  public static func buildEither<A: View, B: View>(first: A) -> Either<A, B> { fatalError() }
  public static func buildEither<A: View, B: View>(second: B) -> Either<A, B> { fatalError() }
}
extension Optional: View where Wrapped: View { public var body: Never { return fatalError() } }
public struct EmptyView: Leaf {}
public struct TupleView<T>: Leaf {}
public struct Either<A: View, B: View>: Leaf {}

public struct Text: Leaf {
  public init<S: StringProtocol>(_ content: S) { fatalError() }
}
public struct Label: Leaf {
  public init<S: StringProtocol>(_ title: S, systemImage: String) { fatalError() }
}
public struct Spacer: Leaf { public init() { fatalError() } }
public struct ProgressView: Leaf { public init<S: StringProtocol>(_ title: S) { fatalError() } }
public struct Button: Leaf {
  public init<S: StringProtocol>(_ title: S, action: @escaping @MainActor () -> Void) { fatalError() }
}
public struct TextField: Leaf {
  public init<S: StringProtocol>(_ title: S, text: Binding<String>) { fatalError() }
}
public struct ShareLink: Leaf {
  public init<S: StringProtocol>(_ title: S, item: URL) { fatalError() }
}
public struct Group<Content: View>: Leaf { public init(@ViewBuilder content: () -> Content) { fatalError() } }
public struct VStack<Content: View>: Leaf {
  public init(alignment: HorizontalAlignment = .center, spacing: CGFloat? = nil, @ViewBuilder content: () -> Content) {
    fatalError()
  }
}
public struct HStack<Content: View>: Leaf {
  public init(spacing: CGFloat? = nil, @ViewBuilder content: () -> Content) { fatalError() }
}
public struct ScrollView<Content: View>: Leaf { public init(@ViewBuilder content: () -> Content) { fatalError() } }
public struct List<Content: View>: Leaf { public init(@ViewBuilder content: () -> Content) { fatalError() } }
public struct Section<Content: View>: Leaf { public init(@ViewBuilder content: () -> Content) { fatalError() } }
public struct TabView<Selection: Hashable, Content: View>: Leaf {
  public init(selection: Binding<Selection>?, @ViewBuilder content: () -> Content) { fatalError() }
}
public struct ForEach<Data: RandomAccessCollection, ID: Hashable, Content: View>: Leaf {
  public init(_ data: Data, id: KeyPath<Data.Element, ID>, @ViewBuilder content: @escaping (Data.Element) -> Content) {
    fatalError()
  }
}

public struct HorizontalAlignment: Sendable { public static let leading = Self(), center = Self() }
public struct Alignment: Sendable { public static let leading = Self(), center = Self(), trailing = Self() }
public struct Font: Sendable { public static let caption = Font(), headline = Font() }
public protocol ShapeStyle: Sendable {}
public struct HierarchicalShapeStyle: ShapeStyle {}
public struct Color: ShapeStyle {}
extension ShapeStyle where Self == HierarchicalShapeStyle {
  public static var primary: Self { fatalError() }
  public static var secondary: Self { fatalError() }
}
extension ShapeStyle where Self == Color { public static var red: Color { fatalError() } }
@MainActor public protocol TextFieldStyle {}
public struct RoundedBorderTextFieldStyle: TextFieldStyle {}
extension TextFieldStyle where Self == RoundedBorderTextFieldStyle {
  public static var roundedBorder: RoundedBorderTextFieldStyle { fatalError() }
}
public protocol TextSelectability {}
public struct EnabledTextSelectability: TextSelectability {}
extension TextSelectability where Self == EnabledTextSelectability {
  public static var enabled: EnabledTextSelectability { fatalError() }
}

extension View {
  public func padding() -> some View { EmptyView() }
  public func font(_ font: Font?) -> some View { EmptyView() }
  public func foregroundStyle<S: ShapeStyle>(_ style: S) -> some View { EmptyView() }
  public func frame(maxWidth: CGFloat? = nil, maxHeight: CGFloat? = nil, alignment: Alignment = .center) -> some View {
    EmptyView()
  }
  public func textFieldStyle<S: TextFieldStyle>(_ style: S) -> some View { EmptyView() }
  public func textSelection<S: TextSelectability>(_ selectability: S) -> some View { EmptyView() }
  public func tabItem<V: View>(@ViewBuilder _ label: () -> V) -> some View { EmptyView() }
  public func tag<V: Hashable>(_ tag: V) -> some View { EmptyView() }
  public func onSubmit(_ action: @escaping () -> Void) -> some View { EmptyView() }
  public func task(@_inheritActorContext _ action: @escaping @Sendable () async -> Void) -> some View { EmptyView() }
}

@MainActor @propertyWrapper public struct State<Value> {
  public nonisolated init(wrappedValue: Value) { fatalError() }
  public var wrappedValue: Value { get { fatalError() } nonmutating set {} }
  public var projectedValue: Binding<Value> { fatalError() }
}
extension State where Value: ExpressibleByNilLiteral { public nonisolated init() { fatalError() } }
@propertyWrapper public struct Binding<Value> {
  public init(get: @escaping () -> Value, set: @escaping (Value) -> Void) { fatalError() }
  public var wrappedValue: Value { get { fatalError() } nonmutating set {} }
}

@MainActor @preconcurrency public protocol Scene {}
public struct WindowGroup<Content: View>: Scene { public init(@ViewBuilder content: () -> Content) { fatalError() } }
@resultBuilder public enum SceneBuilder { public static func buildBlock<S: Scene>(_ scene: S) -> S { scene } }
@MainActor @preconcurrency public protocol App {
  associatedtype Body: Scene
  @SceneBuilder @MainActor @preconcurrency var body: Body { get }
  @MainActor @preconcurrency init()
}
extension App { @MainActor @preconcurrency public static func main() {} }
