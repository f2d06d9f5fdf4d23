"""Overrides with odd values."""

ODD = [
    "Größe", "写真/猫", "my photos", "C:/My Pictures (1)", "C:\\My Pictures\\x", "a[1]", "[2020] photos", "[2020]",
    "a=b", "a&b", "#1", "it's", "'tis", "a$b", "a,b", "a:b", "a{b}", "{a}", "{a:1}", "-x", "--x", "100%", "a;b!",
    "a*?", "<x>|y",
    "\\\\server\\share", "a\\(b", "ends\\", "it\\'s", 'say "x"', "2020", "1_000", "1.10", "1e5", "true", "nan", " x ",
    "range(3)", "str(3)", "glob(*)", "http://host/{000..009}.tar?a=b", "x\ny", "`x`", "..", "été, 2020 (1)",
]  # fmt: skip
