package dev.slmkit.sample

import dev.slmkit.sample.core.Assistant
import dev.slmkit.sample.core.Message
import dev.slmkit.sample.core.Piece
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.cancel
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

/** Everything that the chat's screen shows. */
data class ChatState(
    val ready: Boolean = false,
    val busy: Boolean = false,
    val messages: List<Message> = emptyList(),
    val status: String = "loading",
)

/** The chat without its screen: it is tested on the JVM. Called on one thread, the screen's. */
class ChatModel(private val scope: CoroutineScope, private val open: () -> Assistant) {
    private val changes = MutableStateFlow(ChatState())
    val state: StateFlow<ChatState> = changes
    private var assistant: Assistant? = null
    private var job: Job? = null

    fun load() = scope.launch {
        val status = try {
            withContext(Dispatchers.IO) { open() }.let { assistant = it; it.name }
        } catch (e: Exception) {
            e.message ?: e.toString()
        }
        changes.update { it.copy(ready = assistant != null, status = status) }
    }

    fun ask(words: String) {
        val assistant = assistant ?: return
        if (changes.value.busy || words.isBlank()) return
        val question = Message("user", words.trim())
        changes.update { it.copy(busy = true, messages = it.messages + question + Message("assistant", "")) }
        job = scope.launch { // busy before this line: a second question is refused, whenever this one begins
            val clock = Clock()
            try {
                assistant.answer(changes.value.messages.dropLast(1)).collect { piece ->
                    clock.count(piece)
                    changes.update { it.copy(messages = it.messages.dropLast(1) + it.messages.last().plus(piece.text)) }
                }
                changes.update { it.copy(status = clock.toString()) }
            } catch (e: CancellationException) {
                changes.update { it.copy(status = "stopped; $clock") }
                throw e
            } catch (e: Exception) {
                changes.update { it.copy(status = e.message ?: e.toString()) }
            }
        }
        job?.invokeOnCompletion { changes.update { it.copy(busy = false) } } // also if it is stopped before it begins
    }

    /** Ends the answer after the token that is being computed; what was said stays. */
    fun stop() = job?.cancel()

    fun forget() {
        if (!changes.value.busy) changes.update { it.copy(messages = emptyList()) }
    }

    /** Frees the model when nothing computes with it any more. */
    fun close() {
        val last = assistant
        assistant = null
        scope.cancel()
        job?.invokeOnCompletion { last?.close() } ?: last?.close()
    }

    private fun Message.plus(text: String) = copy(content = content + text)

    private class Clock {
        private val start = System.nanoTime()
        private var first = 0L
        private var last = 0L
        private var tokens = 0

        fun count(piece: Piece) {
            last = System.nanoTime() - start
            if (tokens == 0) first = last
            tokens += piece.tokens
        }

        override fun toString(): String {
            val speed = if (tokens > 1) "%.1f tokens/s".format((tokens - 1) * 1e9 / (last - first)) else "$tokens token"
            return "first token after %.0f ms, %s".format(first / 1e6, speed)
        }
    }
}
