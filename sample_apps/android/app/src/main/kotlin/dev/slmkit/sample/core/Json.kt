package dev.slmkit.sample.core

/** JSON without a library: Android's org.json is not on the JVM. Objects are Map, arrays List, numbers Double. */
class Json private constructor(private val text: String) {
    private var at = 0

    private fun fail(expected: String): Nothing =
        throw IllegalArgumentException("JSON: $expected is expected at character $at")

    private fun next() = text.getOrElse(at) { fail("more") }

    private fun space() {
        while (at < text.length && text[at] <= ' ') at++
    }

    private fun <T> eat(word: String, value: T): T {
        if (!text.startsWith(word, at)) fail(word)
        at += word.length
        return value
    }

    private fun value(): Any? {
        space()
        val value = when (next()) {
            '{' -> LinkedHashMap<String, Any?>().also { items("}") { it[key()] = value() } }
            '[' -> ArrayList<Any?>().also { items("]") { it.add(value()) } }
            '"' -> string()
            't' -> eat("true", true)
            'f' -> eat("false", false)
            'n' -> eat("null", null)
            else -> number()
        }
        space()
        return value
    }

    private fun items(end: String, item: () -> Unit) {
        at++
        space()
        if (!text.startsWith(end, at)) {
            item()
            while (next() == ',') { at++; space(); item() }
        }
        eat(end, Unit)
    }

    private fun key(): String {
        val key = string()
        space()
        return eat(":", key)
    }

    private fun number(): Double {
        val from = at
        while (at < text.length && text[at] in "+-0123456789.eE") at++
        return text.substring(from, at).toDoubleOrNull() ?: fail("a value")
    }

    private fun string(): String {
        val out = eat("\"", StringBuilder())
        while (next() != '"') if (text[at] == '\\') out.append(escaped()) else out.append(text[at++])
        at++
        return out.toString()
    }

    private fun escaped(): Char {
        at++
        val letter = next()
        at++
        if (letter != 'u') return ESCAPES.getOrElse(letter) { letter }
        val code = text.substring(at, minOf(at + 4, text.length)).toIntOrNull(16) ?: fail("a code")
        at += 4
        return code.toChar()
    }

    companion object {
        private val SPECIAL = Regex("[\"\\\\\u0000-\u001f]")
        private val ESCAPES = mapOf('n' to '\n', 't' to '\t', 'r' to '\r', 'b' to '\b', 'f' to '\u000c')

        fun parse(text: String): Any? = Json(text).run { value().also { if (at != text.length) fail("the end") } }

        fun write(value: Any?): String = when (value) {
            null, is Boolean, is Int, is Long -> value.toString()
            is Number -> if (value.toDouble().isFinite()) value.toString() else "null"
            is Map<*, *> -> value.entries.joinToString(",", "{", "}") { (key, it) -> "${write("$key")}:${write(it)}" }
            is Iterable<*> -> value.joinToString(",", "[", "]") { write(it) }
            else -> "\"" + value.toString().replace(SPECIAL) { "\\u%04x".format(it.value[0].code) } + "\""
        }
    }
}

@Suppress("UNCHECKED_CAST")
fun Any?.obj() = this as Map<String, Any?>

@Suppress("UNCHECKED_CAST")
fun Any?.list() = this as List<Any?>

fun Any?.int() = (this as Double).toInt()

fun Any?.ints() = list().map { it.int() }
