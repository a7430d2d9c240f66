package dev.slmkit.sample

import com.sun.jna.NativeLibrary
import com.sun.jna.Pointer
import com.sun.jna.ptr.PointerByReference
import dev.slmkit.sample.core.Export
import dev.slmkit.sample.core.int
import dev.slmkit.sample.core.ints
import dev.slmkit.sample.core.list
import dev.slmkit.sample.core.obj
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** The exported folder of ort in onnxruntime-genai, through the C API that its Java classes call too. */
class GenaiTest {
    private val library = NativeLibrary.getInstance(System.getProperty("slmkit.genai"))
    private val export = Export.of(TestData.assets).first { it.artifact == "ort" }

    private fun call(name: String, vararg values: Any?) {
        val failed = library.getFunction(name).invokePointer(values) ?: return
        error("$name: ${library.getFunction("OgaResultGetError").invokeString(arrayOf(failed), false)}")
    }

    private fun made(name: String, vararg values: Any?): Pointer = PointerByReference().also { call(name, *values, it) }.value

    private fun ids(name: String, of: Pointer): List<Int> {
        val count = library.getFunction("${name}Count").invokeLong(arrayOf(of, 0L)).toInt()
        return library.getFunction("${name}Data").invokePointer(arrayOf(of, 0L)).getIntArray(0, count).toList()
    }

    @Test
    fun prompts_and_greedy_answers_are_those_of_python() {
        val model = made("OgaCreateModel", export.folder.path)
        val tokenizer = made("OgaCreateTokenizer", model)
        val greedy = TestData.vectors.flatMap { TestData.read(it, "greedy") }
        assertTrue(greedy.isNotEmpty())
        for (vector in greedy) {
            val turns = """[{"role": "user", "content": "${vector["prompt"]}"}]"""
            val prompt = made("OgaTokenizerApplyChatTemplate", tokenizer, null, turns, null, true).getString(0, "UTF-8")
            val sequences = made("OgaCreateSequences")
            call("OgaTokenizerEncode", tokenizer, prompt, sequences)
            val given = ids("OgaSequencesGetSequence", sequences)
            assertEquals(vector["prompt_ids"].ints(), given)
            val parameters = made("OgaCreateGeneratorParams", model)
            call("OgaGeneratorParamsSetSearchNumber", parameters, "max_length", export.contextLength.toDouble())
            val generator = made("OgaCreateGenerator", model, parameters)
            call("OgaGenerator_AppendTokenSequences", generator, sequences)
            while (library.getFunction("OgaGenerator_IsDone").invokeInt(arrayOf(generator)) and 255 == 0) call("OgaGenerator_GenerateNextToken", generator)
            val want = vector["steps"].list().map { it.obj()["id"].int() }.filter { it !in export.stopIds } // it keeps the stop id to itself
            assertEquals(want, ids("OgaGenerator_GetSequence", generator).drop(given.size))
            for ((kind, pointer) in listOf("Generator" to generator, "GeneratorParams" to parameters, "Sequences" to sequences)) {
                library.getFunction("OgaDestroy$kind").invoke(arrayOf(pointer))
            }
        }
        library.getFunction("OgaDestroyTokenizer").invoke(arrayOf(tokenizer))
        library.getFunction("OgaDestroyModel").invoke(arrayOf(model))
        library.getFunction("OgaShutdown").invoke(emptyArray())
    }
}
