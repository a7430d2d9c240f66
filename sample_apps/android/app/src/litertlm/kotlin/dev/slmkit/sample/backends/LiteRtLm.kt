package dev.slmkit.sample.backends

import com.google.ai.edge.litertlm.Backend
import com.google.ai.edge.litertlm.ConversationConfig
import com.google.ai.edge.litertlm.Engine
import com.google.ai.edge.litertlm.EngineConfig
import dev.slmkit.sample.core.Assistant
import dev.slmkit.sample.core.Export
import dev.slmkit.sample.core.Message
import dev.slmkit.sample.core.Piece
import dev.slmkit.sample.core.demand
import java.io.File
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.emitAll
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.flowOn
import kotlinx.coroutines.flow.map
import kotlinx.coroutines.flow.onCompletion
import com.google.ai.edge.litertlm.Message as Turn

fun openLiteRtLm(export: Export, cache: File, threads: Int): Assistant {
    val model = File(export.folder, "model.litertlm")
    demand(model.isFile) { "${export.model} has no model.litertlm: LiteRT-LM runs no model with recurrent states" }
    return LiteRtLmBackend(model, cache, threads)
}

/** LiteRT-LM: tokenizer, template, sampler and stop ids are in its file. */
class LiteRtLmBackend(model: File, cache: File, threads: Int) : Assistant {
    override val name = "LiteRT-LM, CPU, $threads threads"
    private val config = EngineConfig(model.path, Backend.CPU(threads), cacheDir = cache.path)
    private val engine = Engine(config).apply { initialize() }

    override fun answer(messages: List<Message>): Flow<Piece> = flow {
        val before = messages.dropLast(1).map { turn(it) }
        engine.createConversation(ConversationConfig(initialMessages = before)).use { conversation ->
            val tokens = conversation.sendMessageAsync(messages.last().content) // a message for each
            emitAll(tokens.map { Piece(it.toString()) }.onCompletion { if (it != null) conversation.cancelProcess() })
        }
    }.flowOn(Dispatchers.Default)

    private fun turn(message: Message) = when (message.role) {
        "system" -> Turn.system(message.content)
        "assistant" -> Turn.model(message.content)
        else -> Turn.user(message.content)
    }

    override fun close() = engine.close()
}
