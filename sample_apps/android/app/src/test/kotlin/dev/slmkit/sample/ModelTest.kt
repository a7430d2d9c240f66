package dev.slmkit.sample

import dev.slmkit.sample.backends.Models
import dev.slmkit.sample.core.ChatForm
import dev.slmkit.sample.core.Generator
import dev.slmkit.sample.core.Message
import dev.slmkit.sample.core.ModelBackend
import dev.slmkit.sample.core.Sampler
import dev.slmkit.sample.core.SelfTest
import dev.slmkit.sample.core.Tokenizer
import dev.slmkit.sample.core.best
import dev.slmkit.sample.core.json
import java.io.File
import kotlin.math.abs
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.asCoroutineDispatcher
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withContext
import java.util.concurrent.Executors
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Assume.assumeTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.Timeout

/** The app's model in ONNX Runtime, and the chat on it. */
class ModelTest {
    @get:Rule
    val timeout: Timeout = Timeout.seconds(120) // a question without an end is a failure
    private val models = Models(TestData.assets, File(System.getProperty("java.io.tmpdir"))) { Long.MAX_VALUE }
    private val export = models.exports.first { it.artifact == "ort" }
    private val tokenizer = Tokenizer(File(TestData.assets, "tokens.json").readText())
    private val form = ChatForm.of(File(TestData.assets, "chat.json").readText())
    private val greedy = TestData.vectors.filter { it.name == export.model }.flatMap { TestData.read(it, "greedy") }
    private val main = Executors.newSingleThreadExecutor().asCoroutineDispatcher()
    private val question = "Turn off the kitchen lights at 7 pm."

    /** Slow enough to be stopped, and to notice a second run of it. */
    private inner class Slow : ModelBackend {
        private val inside = models.backend(export)
        private var running = false
        var fed = 0
        var crossed = false
        override val name = inside.name

        override fun feed(ids: List<Int>): FloatArray {
            crossed = crossed || running
            running = true
            Thread.sleep(20)
            fed += ids.size
            return inside.feed(ids).also { running = false }
        }

        override fun reset() {
            crossed = crossed || running
            fed = 0
            inside.reset()
        }

        override fun close() = inside.close()
    }

    private fun generator(backend: ModelBackend) = Generator(backend, export, tokenizer, form) { 1 }

    private fun chat(backend: ModelBackend, test: suspend (ChatModel) -> Unit) = runBlocking {
        val model = ChatModel(CoroutineScope(SupervisorJob() + main)) { generator(backend) }
        model.load().join()
        test(model)
        withContext(main) { model.close() }
    }

    private suspend fun ChatModel.answer(): String = state.first { !it.busy }.messages.last().content

    /** The state in which the answer has so many letters. A model that ends before is not for the test. */
    private suspend fun ChatModel.begun(letters: Int = 1) = state.first { !it.busy || it.messages.last().content.length >= letters }
        .also { assumeTrue("the answer has fewer letters than $letters", it.busy) }

    @Test
    fun greedy_answers_and_logits_are_those_of_python() {
        assumeTrue("no vectors of ${export.model}", greedy.isNotEmpty())
        var worst = 0.0
        models.backend(export).use { backend ->
            for (vector in greedy) {
                val prompt = generator(backend).prompt(listOf(Message("user", vector["prompt"] as String)))
                val steps = vector["steps"].list().map { it.obj() }
                assertEquals(vector["prompt_ids"].ints(), prompt)
                assertEquals(steps.map { it["id"].int() }, runBlocking { generator(backend).ids(prompt, Sampler()).toList() }.take(steps.size))
                val pieces = runBlocking { generator(backend).text(prompt, Sampler()).toList() }
                if (steps.last()["id"].int() in export.stopIds) assertEquals(vector["answer"], pieces.joinToString("") { it.text })
                backend.reset()
                var logits = backend.feed(prompt)
                for (step in steps) {
                    for ((id, want) in step["top"].list().map { it.list() }) worst = maxOf(worst, abs(logits[id.int()] - want as Double))
                    logits = backend.feed(listOf(step["id"].int()))
                }
            }
        }
        println("logits differ from Python's by at most %.2e".format(worst))
        System.getProperty("slmkit.tolerance")?.let { assertTrue("$worst", worst <= it.toDouble()) } // where Python ran this very artifact
    }

    @Test
    fun a_prompt_in_chunks_gives_the_logits_of_a_prompt_at_once() = models.backend(export).use { backend ->
        val ids = List(minOf(300, export.contextLength - 1)) { 10 + it % 200 } // more than a chunk of 128
        backend.reset()
        val whole = backend.feed(ids)
        backend.reset()
        for (id in ids.dropLast(1)) backend.feed(listOf(id))
        val apart = backend.feed(ids.takeLast(1))
        assertEquals(best(whole, 1), best(apart, 1))
        assertTrue(whole.indices.maxOf { abs(whole[it] - apart[it]) } < 0.5)
    }

    @Test
    fun the_self_test_finds_the_reference_s_tokens_and_logits() {
        val report = SelfTest(mapOf("model" to "JVM")).run(export, { models.cases }) { models.backend(export) }
        println(report.summary())
        System.getProperty("slmkit.report")?.let { File(it).writeText(json.encodeToString(report)) }
        assertEquals(emptyList<String>(), report.errors)
        assertTrue(report.greedy!! >= 0.9)
        assertTrue(report.db!! >= 20.0) // the recipes' bound for what ships
    }

    @Test
    fun the_self_test_of_another_model_says_so() {
        val wrong = object : ModelBackend by models.backend(export) {
            override fun feed(ids: List<Int>) = FloatArray(300_000)
        }
        val report = SelfTest(emptyMap()).run(export, { models.cases }) { wrong }
        assertEquals(0.0, report.db!!, 1e-9)
        val broken = SelfTest(emptyMap()).run(export, { "{}" }) { wrong }
        assertEquals("${export.model}/ort: not executed: cases.json has the format null; this app reads slmkit-app-cases/1", broken.summary())
        val empty = SelfTest(emptyMap()).run(export, { "{\"format\": \"slmkit-app-cases/1\", \"cases\": []}" }) { wrong }
        assertEquals("${export.model}/ort: not executed: cases.json has no cases", empty.summary())
    }

    @Test
    fun a_question_is_answered_in_pieces_with_its_times() = chat(Slow()) { model ->
        withContext(main) { model.ask(question) }
        val begun = model.begun()
        val answer = model.answer()
        assertTrue(answer.startsWith(begun.messages.last().content))
        assertTrue(model.state.value.status, Regex("first token after [1-9]\\d* ms, \\d+[.,]\\d tokens/s").matches(model.state.value.status))
    }

    @Test
    fun an_answer_is_stopped_in_its_middle_and_the_next_one_is_whole() = Slow().let { backend ->
        chat(backend) { model ->
            withContext(main) { model.ask(question) }
            val whole = model.answer()
            val all = backend.fed
            withContext(main) { model.forget(); model.ask(question) }
            model.begun(4)
            withContext(main) { model.stop() }
            val part = model.answer()
            assertTrue("$part | $whole", part.isNotEmpty() && part.length < whole.length && whole.startsWith(part))
            assertTrue("${backend.fed} of $all", backend.fed < all)
            assertTrue(model.state.value.status.startsWith("stopped"))
            withContext(main) { model.forget(); model.ask(question) }
            assertEquals(whole, model.answer())
        }
        assertFalse(backend.crossed)
    }

    @Test
    fun of_two_questions_at_once_one_is_answered() = Slow().let { backend ->
        chat(backend) { model ->
            withContext(main) { model.ask(question); model.ask("ignored"); model.stop(); model.ask("ignored") }
            model.answer()
            withContext(main) { model.ask(question); model.ask("ignored") }
            model.answer()
            assertFalse(model.state.value.messages.any { it.content == "ignored" })
        }
        assertFalse(backend.crossed)
    }

    @Test
    fun closing_in_the_middle_of_an_answer_waits_for_the_model() {
        val backend = Slow()
        chat(backend) { model ->
            withContext(main) { model.ask(question) }
            model.begun()
        }
        Thread.sleep(200)
        assertFalse(backend.crossed)
    }

    @Test
    fun old_turns_are_left_out_where_the_context_ends() = models.backend(export).use { backend ->
        val turns = List(40) { Message("user", "question $it of many words about the lights") } .flatMap { listOf(it, Message("assistant", "yes")) }
        val prompt = generator(backend).prompt(turns.dropLast(1))
        assertTrue("${prompt.size}", prompt.size <= export.contextLength / 2)
        assertTrue("question 39" in tokenizer.decode(prompt))
    }

    @Test
    fun a_folder_without_a_model_is_an_error_on_the_screen() = runBlocking {
        val model = ChatModel(CoroutineScope(SupervisorJob() + main)) { Models(File("nowhere"), File("."), { 0 }).open() }
        model.load().join()
        assertFalse(model.state.value.ready)
        assertTrue(model.state.value.status, "export a model" in model.state.value.status)
    }
}
