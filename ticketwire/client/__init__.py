"""A client of Ticketwire for Python: send by HTTP, receive by `ticketwire.v1`, resume by itself.

    from ticketwire.client.client import Client

    async with Client("http://localhost:8080", send_to="http://localhost:8000", user="anna") as client:
        await client.send("12345", "Hello, I need assistance with room 101.")
        async for event in client.subscribe("12345", since="0-0"):
            print(event.sender_id, event.message)

What it does for you: one socket for all tickets; after every interruption it comes back with full jitter (or within the
window the server names) and goes on exactly where it was; repeats are dropped; an event is acknowledged when your loop
asks for the next one, so what your code did not finish comes again after a crash if you name a `device`. `send` retries
under one idempotency key until the message is accepted or refused. docs/client.md has the rest.
"""
