package com.google.ai.edge.litertlm

import com.sun.jna.Callback
import com.sun.jna.NativeLibrary
import com.sun.jna.Pointer
import dev.slmkit.sample.core.Json
import dev.slmkit.sample.core.list
import dev.slmkit.sample.core.obj
import kotlinx.coroutines.channels.awaitClose
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.callbackFlow

// LiteRT-LM's Kotlin classes, as far as the sample app calls them, on its C API: its AAR is on Google's Maven alone.
// Names, parameters and their order are those of kotlin/java/com/google/ai/edge/litertlm in google-ai-edge/LiteRT-LM.

private val library = NativeLibrary.getInstance(System.getProperty("slmkit.litertlm"))

private fun call(name: String, vararg values: Any?): Pointer? = library.getFunction("litert_lm_$name").invokePointer(values)

private fun made(name: String, vararg values: Any?) = checkNotNull(call(name, *values)) { "litert_lm_$name failed" }

private fun text(name: String, of: Pointer?) = call(name, of)?.getString(0, "UTF-8")

sealed class Backend(val name: String) {
    data class CPU(val threadCount: Int? = null) : Backend("cpu")
}

data class EngineConfig(
    val modelPath: String,
    val backend: Backend = Backend.CPU(),
    val visionBackend: Backend? = null,
    val audioBackend: Backend? = null,
    val maxNumTokens: Int? = null,
    val maxNumImages: Int? = null,
    val cacheDir: String? = null,
)

class Message private constructor(private val role: String, private val text: String) {
    override fun toString() = text

    fun json() = mapOf("role" to role, "content" to listOf(mapOf("type" to "text", "text" to text)))

    companion object {
        fun system(text: String) = Message("system", text)

        fun user(text: String) = Message("user", text)

        fun model(text: String) = Message("assistant", text)
    }
}

data class ConversationConfig(val systemInstruction: String? = null, val initialMessages: List<Message> = emptyList())

class Engine(private val config: EngineConfig) : AutoCloseable {
    private var engine: Pointer? = null

    fun initialize() {
        val settings = made("engine_settings_create", config.modelPath, config.backend.name, null, null)
        config.cacheDir?.let { call("engine_settings_set_cache_dir", settings, it) }
        (config.backend as Backend.CPU).threadCount?.let { call("engine_settings_set_num_threads", settings, it) }
        engine = made("engine_create", settings)
        call("engine_settings_delete", settings)
    }

    fun createConversation(conversationConfig: ConversationConfig = ConversationConfig()): Conversation {
        val config = made("conversation_config_create")
        if (conversationConfig.initialMessages.isNotEmpty()) call("conversation_config_set_messages", config, Json.write(conversationConfig.initialMessages.map { it.json() }))
        return Conversation(made("conversation_create", engine, config)).also { call("conversation_config_delete", config) }
    }

    override fun close() {
        call("engine_delete", engine)
    }
}

class Conversation(private val conversation: Pointer) : AutoCloseable {
    private fun interface Chunks : Callback {
        fun invoke(data: Pointer?, chunk: Pointer)
    }

    private var callback: Chunks? = null // native code holds it

    fun sendMessageAsync(text: String): Flow<Message> = callbackFlow {
        callback = Chunks { _, chunk ->
            text("stream_chunk_get_error", chunk)?.takeIf { it.isNotEmpty() }?.let { close(IllegalStateException(it)) }
            val said = text("stream_chunk_get_text", chunk).orEmpty()
            if (said.isNotEmpty()) trySend(Message.model(Json.parse(said).obj()["content"].list().joinToString("") { it.obj()["text"] as String }))
            if (library.getFunction("litert_lm_stream_chunk_is_final").invokeInt(arrayOf(chunk)) and 255 != 0) close()
        }
        val code = library.getFunction("litert_lm_conversation_send_message_stream")
            .invokeInt(arrayOf(conversation, Json.write(Message.user(text).json()), null, null, callback, null))
        check(code == 0) { "litert_lm_conversation_send_message_stream failed" }
        awaitClose {}
    }

    fun cancelProcess() {
        call("conversation_cancel_process", conversation)
    }

    override fun close() {
        call("conversation_delete", conversation)
    }
}
