package dev.slmkit.sample

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive

/** JSON whose kind a test does not know: objects are Map, arrays List, numbers Double. */
object Plain {
    fun parse(text: String): Any? = plain(Json.parseToJsonElement(text))

    fun write(value: Any?): String = element(value).toString()

    private fun plain(value: JsonElement): Any? = when (value) {
        is JsonNull -> null
        is JsonObject -> value.mapValues { plain(it.value) }
        is JsonArray -> value.map { plain(it) }
        is JsonPrimitive -> if (value.isString) value.content else value.content.toBooleanStrictOrNull() ?: value.content.toDouble()
    }

    private fun element(value: Any?): JsonElement = when (value) {
        null -> JsonNull
        is Map<*, *> -> JsonObject(value.entries.associate { (key, inner) -> "$key" to element(inner) })
        is Iterable<*> -> JsonArray(value.map { element(it) })
        is Double -> if (value % 1 == 0.0) JsonPrimitive(value.toLong()) else JsonPrimitive(value)
        is Number -> JsonPrimitive(value)
        is Boolean -> JsonPrimitive(value)
        else -> JsonPrimitive("$value")
    }
}

@Suppress("UNCHECKED_CAST")
fun Any?.obj() = this as Map<String, Any?>

@Suppress("UNCHECKED_CAST")
fun Any?.list() = this as List<Any?>

fun Any?.int() = (this as Double).toInt()

fun Any?.ints() = list().map { it.int() }
