"""The served path: image bytes -> validated pixels -> logits -> label map -> answer. Ships inside every .mar."""
