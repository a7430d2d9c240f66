package dev.slmkit.sample.core

import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.flowOn

/** Text of an answer as it comes, and how many tokens it took. */
class Piece(val text: String, val tokens: Int = 1)

/** Answers a conversation, piece by piece; cancelling the collector stops it. */
interface Assistant : AutoCloseable {
    val name: String

    fun answer(messages: List<Message>): Flow<Piece>
}

/** A model in a runtime that takes token ids and gives logits; it keeps the cache of one sequence. */
interface ModelBackend : AutoCloseable {
    val name: String

    /** Appends tokens; the logits after the last of them. (V,) */
    fun feed(ids: List<Int>): FloatArray

    fun reset()
}

/** A backend with its tokenizer, chat form and sampler. */
class Generator(
    private val backend: ModelBackend,
    private val export: Export,
    val tokenizer: Tokenizer,
    private val form: ChatForm,
    private val seed: () -> Long = System::nanoTime,
) : Assistant {
    override val name get() = backend.name

    override fun answer(messages: List<Message>) = text(prompt(messages), Sampler(export.generation, seed()))

    override fun close() = backend.close()

    /** The ids of a conversation, without its oldest turns if it fills more than half of the context. */
    fun prompt(messages: List<Message>): List<Int> {
        if (form.refused != null) return form.startIds + tokenizer.encode(messages.last().content)
        val ids = tokenizer.encode(form.render(messages))
        val oldest = messages.indexOfFirst { it.role == "user" }
        if (ids.size <= export.contextLength / 2 || oldest + 2 >= messages.size) return ids
        return prompt(messages.subList(0, oldest) + messages.subList(oldest + 2, messages.size))
    }

    fun text(prompt: List<Int>, sampler: Sampler): Flow<Piece> = flow {
        val text = tokenizer.Text()
        ids(prompt, sampler).collect { emit(Piece(text.add(it))) }
        emit(Piece(text.end(), tokens = 0))
    }

    /** Token ids up to a stop id, which is the last, or the end of the context. */
    fun ids(prompt: List<Int>, sampler: Sampler): Flow<Int> = flow {
        val room = export.contextLength - prompt.size
        demand(prompt.isNotEmpty() && room > 0) {
            "the prompt has ${prompt.size} tokens; the model reads 1 to ${export.contextLength - 1}"
        }
        backend.reset()
        var logits = backend.feed(prompt)
        val before = HashSet(prompt)
        val padding = logits.indices.filter { it !in tokenizer } // ids of the vocabulary that no token has
        for (count in 1..room) {
            for (id in padding) logits[id] = Float.NEGATIVE_INFINITY
            val id = sampler.next(logits, before)
            before.add(id)
            emit(id)
            if (id in export.stopIds) break
            if (count < room) logits = backend.feed(listOf(id))
        }
    }.flowOn(Dispatchers.Default)
}
