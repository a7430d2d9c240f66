package dev.slmkit.sample

import android.content.Context
import android.os.Handler
import android.os.Looper
import android.view.ViewGroup.LayoutParams.MATCH_PARENT
import android.view.ViewGroup.LayoutParams.WRAP_CONTENT
import android.widget.Button
import android.widget.LinearLayout
import android.widget.ScrollView
import android.widget.TextView
import kotlin.coroutines.CoroutineContext
import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.Runnable

/** Android's main thread for coroutines. */
object Main : CoroutineDispatcher() {
    private val handler = Handler(Looper.getMainLooper())

    override fun dispatch(context: CoroutineContext, block: Runnable) {
        handler.post(block)
    }
}

fun Context.column() = LinearLayout(this).apply {
    orientation = LinearLayout.VERTICAL
    fitsSystemWindows = true
}

fun Context.text(selectable: Boolean = false) = TextView(this).apply {
    setTextIsSelectable(selectable)
    setPadding(24, 12, 24, 12)
}

fun Context.button(label: Int, action: () -> Unit) = Button(this).apply {
    setText(label)
    setOnClickListener { action() }
}

fun Context.row(vararg buttons: Button) = LinearLayout(this).apply { buttons.forEach { addView(it) } }

fun LinearLayout.scrolling(text: TextView) = ScrollView(context).also {
    it.addView(text)
    addView(it, LinearLayout.LayoutParams(MATCH_PARENT, 0, 1f))
}

val wide get() = LinearLayout.LayoutParams(0, WRAP_CONTENT, 1f)
