"""What the pages show, as frozen dataclasses made from facts: pure. The JSON under /rempart/api is made of them."""
