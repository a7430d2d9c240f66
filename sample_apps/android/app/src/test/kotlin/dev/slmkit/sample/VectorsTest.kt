package dev.slmkit.sample

import dev.slmkit.sample.core.ChatForm
import dev.slmkit.sample.core.Generation
import dev.slmkit.sample.core.Message
import dev.slmkit.sample.core.Sampler
import dev.slmkit.sample.core.Tokenizer
import java.io.File
import java.util.Date
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** Kotlin computes what Python computed. */
class VectorsTest {
    private val folders = TestData.vectors.also { assertTrue("there are no vectors", it.isNotEmpty()) }

    @Test
    fun texts_become_the_same_ids_and_text_again() = folders.forEach { folder ->
        val tokenizer = Tokenizer(File(folder, "tokens.json").readText())
        for (vector in TestData.read(folder, "tokenizer") + TestData.read(folder, "decoder")) {
            val where = "${folder.name}: ${vector["text"]}"
            val ids = vector["ids"].ints()
            (vector["text"] as String?)?.let { assertEquals(where, ids, tokenizer.encode(it)) }
            assertEquals(where, vector["decoded"], tokenizer.decode(ids, special = true))
            assertEquals(where, vector["shown"], tokenizer.decode(ids))
        }
    }

    @Test
    fun conversations_become_the_template_s_text() = folders.forEach { folder ->
        val form = ChatForm.of(File(folder, "chat.json").readText(), Date(BUILD_DAY))
        for (vector in TestData.read(folder, "chat")) {
            val messages = vector["messages"].list().map { it.obj() }.map { Message(it["role"] as String, it["content"] as String) }
            assertEquals(folder.name, vector["text"], form.render(messages))
        }
    }

    @Test
    fun samplers_pick_the_same_ids() = folders.forEach { folder ->
        for (vector in TestData.read(folder, "sampler")) {
            fun number(key: String) = vector[key] as Double
            val how = Generation(true, number("temperature"), vector["top_k"].int(), number("top_p"), number("repetition_penalty").toFloat())
            val sampler = Sampler(how, number("seed").toLong())
            val before = HashSet(vector["before"].ints())
            val picked = vector["ids"].ints().map {
                sampler.next(vector["logits"].list().map { (it as Double).toFloat() }.toFloatArray(), before).also { before.add(it) }
            }
            assertEquals("${folder.name} $vector", vector["ids"].ints(), picked)
        }
    }

    private companion object {
        const val BUILD_DAY = 1767268800000 // 1 January 2026, noon UTC: the date in the vectors' texts
    }
}
