package dev.slmkit.sample

import android.app.Activity
import android.content.Intent
import android.os.Bundle
import android.view.inputmethod.EditorInfo
import android.widget.EditText
import android.widget.LinearLayout
import android.widget.ScrollView
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.flow.collect
import kotlinx.coroutines.launch

class ChatActivity : Activity() {
    private val scope = CoroutineScope(SupervisorJob() + Main)
    private lateinit var model: ChatModel

    override fun onCreate(saved: Bundle?) {
        super.onCreate(saved)
        model = ChatModel(scope) { Phone(this).models().open() }
        val status = text()
        val said = text(selectable = true)
        val question = EditText(this).apply {
            setHint(R.string.example)
            setSingleLine()
            imeOptions = EditorInfo.IME_ACTION_SEND
        }
        val send = {
            val words = question.text.toString().ifBlank { getString(R.string.example) }
            if (model.state.value.busy) model.stop() else model.ask(words)
            question.text.clear()
        }
        val ask = button(R.string.ask) { send() }
        question.setOnEditorActionListener { _, action, _ ->
            (action == EditorInfo.IME_ACTION_SEND).also { if (it) send() }
        }
        val column = column()
        val selfTest = button(R.string.self_test) { startActivity(Intent(this, SelfTestActivity::class.java)) }
        column.addView(row(button(R.string.forget) { model.forget() }, selfTest))
        column.addView(status)
        val scroll = column.scrolling(said)
        column.addView(LinearLayout(this).apply { addView(question, wide); addView(ask) })
        setContentView(column)
        scope.launch {
            model.state.collect {
                status.text = it.status
                val turns = it.messages.map { (role, words) -> if (role == "user") "> $words" else words }
                said.text = turns.joinToString("\n\n")
                ask.setText(if (it.busy) R.string.stop else R.string.ask)
                ask.isEnabled = it.ready
                scroll.post { scroll.fullScroll(ScrollView.FOCUS_DOWN) }
            }
        }
        model.load()
    }

    override fun onDestroy() {
        model.close()
        super.onDestroy()
    }
}
