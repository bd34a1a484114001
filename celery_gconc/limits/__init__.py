"""What a limit is: values. Nothing here talks to anything."""
