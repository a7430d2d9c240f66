"""The graphs as they run on this computer: HTP's rounding emulated, or in float32."""
