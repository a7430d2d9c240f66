import SlmkitCore
import SwiftUI

@main struct SampleApp: App {
  @State private var model: Result<LoadedModel, any Error>?
  @State private var screen = CommandLine.arguments.contains("--self-test") ? 1 : 0

  var body: some Scene {
    WindowGroup {
      Group {
        switch model {
        case .success(let model):
          TabView(selection: $screen) {
            ChatView(model: model).tabItem { Label("Chat", systemImage: "bubble.left") }.tag(0)
            SelfTestView(model: model, atOnce: screen == 1)
              .tabItem { Label("Self-test", systemImage: "checkmark.seal") }.tag(1)
          }
        case .failure(let error): Text(String(describing: error)).padding()
        case nil: ProgressView("Loading the model")
        }
      }
      .task {
        do { model = .success(try await LoadedModel.load()) } catch { model = .failure(error) }
      }
    }
  }
}

struct ChatView: View {
  let model: LoadedModel
  @State private var chat = ChatModel()
  @State private var words = ""

  var body: some View {
    VStack(alignment: .leading) {
      HStack {
        Text(model.folder.export.model).font(.headline)
        Spacer()
        Button("New") { chat.clear() }
      }
      if let refused = model.chat.refused { Text("Raw prompts: \(refused)").font(.caption) }
      ScrollView {
        ForEach(Array(chat.messages.enumerated()), id: \.offset) { _, message in
          Text(message.content)
            .foregroundStyle(message.role == "user" ? .secondary : .primary)
            .frame(maxWidth: .infinity, alignment: message.role == "user" ? .trailing : .leading)
            .textSelection(.enabled)
        }
      }
      Text(chat.status).font(.caption).foregroundStyle(.secondary)
      HStack {
        TextField("Message", text: $words).textFieldStyle(.roundedBorder).onSubmit { send() }
        Button(chat.answering == nil ? "Send" : "Stop") { chat.answering == nil ? send() : chat.stop() }
      }
    }
    .padding()
  }

  private func send() {
    guard chat.answering == nil else { return }
    chat.ask(words, model)
    words = ""
  }
}

struct SelfTestView: View {
  let model: LoadedModel, atOnce: Bool
  @State private var test = SelfTest()

  var body: some View {
    List {
      Section {
        Button(test.running == nil ? "Run" : "Stop") { test.running == nil ? test.start(model) : test.stop() }
        if let report = test.report {
          Text("Best id as the reference: \(percent(report.greedy)), logits: \(decibels(report.db))")
          ForEach(report.errors, id: \.self) { Text($0).foregroundStyle(.red) }
        }
        if let file = test.file { ShareLink("Share the report", item: file) }
      }
      ForEach(test.report?.cases ?? [], id: \.name) { each in
        VStack(alignment: .leading) {
          Text(each.name)
          Text("\(percent(each.greedy)), \(decibels(each.db)), \(Int(each.ttftMs)) ms, \(Int(each.decodeTps)) tokens/s")
            .font(.caption)
        }
      }
    }
    .task { if atOnce { test.start(model) } }
  }

  private func percent(_ share: Double?) -> String { share.map { String(format: "%.1f %%", 100 * $0) } ?? "none" }
  private func decibels(_ db: Double?) -> String { db.map { String(format: "%.1f dB", $0) } ?? "none" }
}
