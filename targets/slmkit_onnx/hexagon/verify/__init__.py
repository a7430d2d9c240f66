"""What stands in for HTP on this computer: its rounding, float twins, exact sessions."""
