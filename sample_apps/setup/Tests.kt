package dev.slmkit.setup

import kotlin.system.exitProcess
import org.junit.internal.RealSystem
import org.junit.internal.TextListener
import org.junit.runner.JUnitCore
import org.junit.runner.notification.Failure
import org.junit.runner.notification.RunListener

/**
 * Runs test classes, given by their names. JUnit's "OK" counts tests that ended at an assumption;
 * the last line says how many were executed, and why the others were not.
 */
fun main(names: Array<String>) {
    val left = mutableListOf<String>()
    val core = JUnitCore()
    core.addListener(TextListener(RealSystem()))
    core.addListener(object : RunListener() {
        override fun testAssumptionFailure(failure: Failure) {
            left += "${failure.description.methodName} (${failure.message})"
        }
    })
    val result = core.run(*names.map { Class.forName(it) }.toTypedArray())
    val others = if (left.isEmpty()) "" else "; not executed: ${left.joinToString(", ")}"
    println("tests executed: ${result.runCount - left.size}, failed: ${result.failureCount}$others")
    exitProcess(if (result.wasSuccessful()) 0 else 1)
}
