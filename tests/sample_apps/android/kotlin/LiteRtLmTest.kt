package dev.slmkit.sample

import dev.slmkit.sample.backends.Models
import dev.slmkit.sample.core.Message
import dev.slmkit.sample.core.Refused
import java.io.File
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** The app's LiteRtLmBackend on LiteRT-LM's own library. */
class LiteRtLmTest {
    private val models = Models(TestData.assets, File(System.getProperty("slmkit.cache"))) { Long.MAX_VALUE }
    private val greedy = TestData.vectors.flatMap { TestData.read(it, "greedy") }

    private fun asked(words: Any?) = listOf(Message("user", words as String))

    @Test
    fun answers_are_the_reference_s() = models.open().use { assistant ->
        assertTrue(assistant.name, assistant.name.startsWith("LiteRT-LM"))
        assertTrue(greedy.isNotEmpty())
        for (vector in greedy) {
            val pieces = runBlocking { assistant.answer(asked(vector["prompt"])).toList() }
            assertEquals(vector["answer"], pieces.joinToString("") { it.text })
            assertTrue("${pieces.size} pieces", pieces.size > 3)
        }
    }

    @Test
    fun an_answer_is_stopped_and_the_next_one_is_whole() = models.open().use { assistant ->
        val vector = greedy.first()
        val answer = assistant.answer(asked(vector["prompt"]))
        repeat(3) { runBlocking { answer.take(2).toList() } }
        assertEquals(vector["answer"], runBlocking { answer.toList() }.joinToString("") { it.text })
    }

    @Test
    fun earlier_turns_are_part_of_the_prompt() = models.open().use { assistant ->
        val turns = asked("48 minutes timer") + Message("assistant", "{}") + asked("Turn off the kitchen lights at 7 pm.")
        assertTrue(runBlocking { assistant.answer(turns).first { it.text.isNotEmpty() } }.text.isNotEmpty())
    }

    @Test
    fun there_are_no_logits_for_the_self_test() {
        val reason = assertThrows(Refused::class.java) { models.backend(models.exports.single()) }.message!!
        assertTrue(reason, "no logits" in reason)
    }
}
