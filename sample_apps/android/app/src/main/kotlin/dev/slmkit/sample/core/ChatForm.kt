package dev.slmkit.sample.core

import java.text.SimpleDateFormat
import java.util.Date
import java.util.Locale
import kotlinx.serialization.Serializable

/** One turn of a conversation; ``role`` is system, user or assistant. */
data class Message(val role: String, val content: String)

/** What stands before and after each message: chat.json, proved equal to the model's template, or refused. */
@Serializable
class ChatForm(
    val refused: String? = null, // why there is no form; the app then sends the last message as raw text
    val startIds: List<Int>, // before a raw text
    private val begin: String = "",
    private val noSystem: String = "",
    private val system: Part? = null,
    private val user: Part = Part(),
    private val assistant: Part = Part(),
    private val answer: String = "",
    private val date: Day? = null,
) {
    @Serializable
    class Part(
        val before: String = "",
        private val after: String = "",
        private val trim: Boolean = false,
        val opensUser: Boolean = false,
        private val thinking: Thinking? = null,
    ) {
        /** A message with the text after it. */
        fun around(content: String): String {
            var said = content
            if (thinking != null && thinking.end in said) {
                said = said.substringAfterLast(thinking.end).trimStart { it in thinking.strip }
            }
            if (trim) said = said.trim { it.isWhite() || it in '\u001c'..'\u001f' } // as Python's strip
            return said + after
        }
    }

    /** Thoughts, which are left out of earlier answers: all up to the last ``end``, and ``strip`` after it. */
    @Serializable
    class Thinking(val end: String, val strip: String)

    @Serializable
    class Day(val text: String, val pattern: String)

    fun render(messages: List<Message>): String {
        val first = messages.firstOrNull()?.takeIf { it.role == "system" }
        demand(first == null || system != null) { "the model's chat template takes no system message" }
        val turns = messages.drop(if (first == null) 0 else 1)
        val opened = first != null && system!!.opensUser
        val parts = turns.mapIndexed { at, turn ->
            val part = if (turn.role == "user") user else assistant
            (if (at == 0 && opened) "" else part.before) + part.around(turn.content)
        }
        val start = if (first == null) noSystem else system!!.before + system.around(first.content)
        return begin + start + parts.joinToString("") + answer
    }

    companion object {
        /** Reads chat.json. ``today``: for templates that write the date. */
        fun of(text: String, today: Date = Date()): ChatForm {
            val form = written<ChatForm>(text, "chat.json", "slmkit-app-chat/1")
            val day = form.date ?: return form
            val words = SimpleDateFormat(day.pattern, Locale.ENGLISH).format(today)
            return json.decodeFromString(text.replace(day.text, words))
        }
    }
}
