package dev.slmkit.sample.core

import java.text.SimpleDateFormat
import java.util.Date
import java.util.Locale

/** One turn of a conversation; ``role`` is system, user or assistant. */
data class Message(val role: String, val content: String)

/** What stands before and after each message: chat.json, proved equal to the model's template, or refused. */
class ChatForm(text: String, today: Date = Date()) {
    private val root: Map<String, Any?>

    /** Why there is no form; the app then sends the last message as raw text, after ``startIds``. */
    val refused: String?
    val startIds: List<Int>

    init {
        val written = Json.parse(text).obj()
        demand(written["format"] == FORMAT) { "chat.json has the format ${written["format"]}; this app reads $FORMAT" }
        refused = written["refused"] as String?
        startIds = written["start_ids"].ints()
        root = written["date"]?.obj()?.let { date ->
            val words = SimpleDateFormat(date["pattern"] as String, Locale.ENGLISH).format(today)
            replaced(written, date["text"] as String, words).obj()
        } ?: written
    }

    fun render(messages: List<Message>): String {
        val system = messages.firstOrNull()?.takeIf { it.role == "system" }
        demand(system == null || root["system"] != null) { "the model's chat template takes no system message" }
        val opened = system != null && root["system"].obj()["opens_user"] == true
        val turns = messages.drop(if (system == null) 0 else 1)
        val parts = turns.mapIndexed { at, turn -> part(turn, before = at > 0 || !opened) }
        val start = if (system == null) root["no_system"] else part(system)
        return "${root["begin"]}$start${parts.joinToString("")}${root["answer"]}"
    }

    private fun part(message: Message, before: Boolean = true): String {
        val part = root[message.role].obj()
        var said = message.content
        part["thinking"]?.obj()?.let { thought ->
            val rest = said.substringAfterLast(thought["end"] as String, "")
            if (thought["end"] as String in said) said = rest.trimStart { it in thought["strip"] as String }
        }
        if (part["trim"] == true) said = said.trim { it.isWhite() || it in '\u001c'..'\u001f' } // as Python's strip
        return (if (before) part["before"] as String else "") + said + part["after"]
    }

    private fun replaced(value: Any?, old: String, new: String): Any? = when (value) {
        is String -> value.replace(old, new)
        is Map<*, *> -> value.mapValues { replaced(it.value, old, new) }
        else -> value
    }

    private companion object {
        const val FORMAT = "slmkit-app-chat/1"
    }
}
