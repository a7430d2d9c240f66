package dev.slmkit.sample.core

/** JSON without a library: Android's org.json is not on the JVM. Objects are Map, arrays List, numbers Double. */
class Json private constructor(private val text: String) {
    private var at = 0

    private fun fail(expected: String): Nothing =
        throw IllegalArgumentException("JSON: $expected is expected at character $at")

    private fun next() = text.getOrElse(at) { fail("more") }

    private fun skipSpace() {
        while (at < text.length && text[at] <= ' ') at++
    }

    private fun eat(word: String) {
        if (!text.startsWith(word, at)) fail(word)
        at += word.length
    }

    private fun value(): Any? {
        skipSpace()
        return when (next()) {
            '{' -> LinkedHashMap<String, Any?>().also { items('}') { skipSpace(); val key = string(); skipSpace(); eat(":"); it[key] = value() } }
            '[' -> ArrayList<Any?>().also { items(']') { it.add(value()) } }
            '"' -> string()
            't' -> { eat("true"); true }
            'f' -> { eat("false"); false }
            'n' -> { eat("null"); null }
            else -> number()
        }
    }

    private fun items(end: Char, item: () -> Unit) {
        at++
        skipSpace()
        if (next() != end) do { item(); skipSpace() } while (next() == ',' && ++at > 0)
        eat(end.toString())
    }

    private fun number(): Double {
        val from = at
        while (at < text.length && text[at] in "+-0123456789.eE") at++
        return text.substring(from, at).toDoubleOrNull() ?: fail("a value")
    }

    private fun string(): String {
        eat("\"")
        val out = StringBuilder()
        while (next() != '"') {
            val from = at
            while (next() != '"' && next() != '\\') at++
            out.append(text, from, at)
            if (next() == '\\') out.append(escaped())
        }
        at++
        return out.toString()
    }

    private fun escaped(): Char {
        at += 2
        return when (val c = text.getOrElse(at - 1) { fail("more") }) {
            'n' -> '\n'
            't' -> '\t'
            'r' -> '\r'
            'b' -> '\b'
            'f' -> '\u000c'
            'u' -> (text.drop(at).take(4).toIntOrNull(16) ?: fail("four hex digits")).toChar().also { at += 4 }
            else -> c
        }
    }

    companion object {
        fun parse(text: String): Any? = Json(text).run { value().also { skipSpace(); if (at != text.length) fail("the end") } }

        fun write(value: Any?): String = when (value) {
            null, is Boolean, is Int, is Long -> value.toString()
            is Number -> if (value.toDouble().isFinite()) value.toString() else "null"
            is Map<*, *> -> value.entries.joinToString(",", "{", "}") { "${write(it.key.toString())}:${write(it.value)}" }
            is Iterable<*> -> value.joinToString(",", "[", "]") { write(it) }
            else -> value.toString().map { if (it < ' ' || it == '"' || it == '\\') "\\u%04x".format(it.code) else it.toString() }.joinToString("", "\"", "\"")
        }
    }
}

@Suppress("UNCHECKED_CAST")
fun Any?.obj() = this as Map<String, Any?>

@Suppress("UNCHECKED_CAST")
fun Any?.list() = this as List<Any?>

fun Any?.int() = (this as Double).toInt()

fun Any?.ints() = list().map { it.int() }
