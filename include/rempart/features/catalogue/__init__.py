"""The catalogue of feature views: what each view holds, of what it is made, and which champions read it. Pure."""
