"""Texts with and without findings, for the tests and the benchmark of the guard; and what is left when redacted."""

from __future__ import annotations

__all__ = ["CLEAN", "PRIVATE", "SECRETS"]

JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\nabc/def+ghi==\n-----END RSA PRIVATE KEY-----"

PRIVATE: tuple[tuple[str, str], ...] = (
    # e-mail
    ("Write to ana.silva+news@mail.example.co.uk.", "Write to [EMAIL]."),
    ("邮箱zhang_wei@qq.com，谢谢", "邮箱[EMAIL]，谢谢"),
    ("E-mail:joão@example.pt!", "E-mail:[EMAIL]!"),
    # Brazil
    ("Meu CPF é 529.982.247-25.", "Meu CPF é [CPF]."),
    ("cpf 52998224725", "cpf [CPF]"),
    ("CNPJ 11.222.333/0001-81", "CNPJ [CNPJ]"),
    ("CNPJ alfanumérico 12.ABC.345/01DE-35", "CNPJ alfanumérico [CNPJ]"),
    ("RG: 24.678.131-2", "RG: [RG]"),
    ("identidade 24.678.131-2 SSP", "identidade [RG] SSP"),
    ("Liga para +55 (11) 91234-5678 ou (21) 2345-6789", "Liga para [PHONE] ou [PHONE]"),
    ("celular 11 91234-5678", "celular [PHONE]"),
    # Portugal
    ("NIF: 501964843", "NIF: [NIF]"),
    ("o NIPC n.º 501 964 843", "o NIPC n.º [NIF]"),
    ("VAT PT501964843", "VAT PT[NIF]"),
    ("IBAN PT50 0002 0123 1234 5678 9015 4", "IBAN [IBAN]"),
    ("Telemóvel 912 345 678 ou +351 21 234 5678", "Telemóvel [PHONE] ou [PHONE]"),
    # United States and United Kingdom
    ("SSN 219-09-9999", "SSN [SSN]"),
    ("social security number is 219099999", "social security number is [SSN]"),
    ("call (415) 555-2671 or 1-212-555-0143", "call [PHONE] or [PHONE]"),
    ("ring 07700 900 123 or +44 20 7946 0958", "ring [PHONE] or [PHONE]"),
    ("passport no. 123456789", "passport no. [PASSPORT]"),
    ("Passaporte: FZ123456", "Passaporte: [PASSPORT]"),
    # China
    ("身份证号11010519491231002X。", "身份证号[CN-ID]。"),
    ("电话13812345678", "电话[PHONE]"),
    ("手机号码：138 1234 5678", "手机号码：[PHONE]"),
    ("座机010-62751234", "座机[PHONE]"),
    ("护照号码：E12345678", "护照号码：[PASSPORT]"),
    ("电话１３８１２３４５６７８", "电话[PHONE]"),
    # accounts and addresses of machines
    ("card 4111 1111 1111 1111, exp 12/27", "card [CARD], exp 12/27"),
    ("amex 378282246310005", "amex [CARD]"),
    ("GB82 WEST 1234 5698 7654 32 OK", "[IBAN] OK"),
    ("from 203.0.113.7 and 2001:db8:0:1:1:1:1:1", "from [IP] and [IP]"),
)

SECRETS: tuple[tuple[str, str], ...] = (
    ("key glm_Ab3dE6gH_" + "q7Wx" * 10 + "abc done", "key [API-KEY] done"),
    ("sk-proj-abcDEF1234567890ghijKLMNopq", "[API-KEY]"),
    ("sk-ant-api03-Zx9_abcdefghij0123456789", "[API-KEY]"),
    ("id AKIAIOSFODNN7EXAMPLE.", "id [API-KEY]."),
    ("ghp_" + "a1B2" * 9 + " ok", "[API-KEY] ok"),
    ("xoxb-1234567890-abcdef", "[API-KEY]"),
    ("AIza" + "Sy0_-" * 7, "[API-KEY]"),
    ("sk_live_" + "a1B2c3D4" * 3, "[API-KEY]"),
    ("hf_" + "aBcDeF" * 6, "[API-KEY]"),
    (f"Bearer {JWT} x", "Bearer [JWT] x"),
    (f"{PEM}\nafter", "[PRIVATE-KEY]\nafter"),
    ("password = 'tr0ub4dor&3x'", "password = '[SECRET]'"),
    ("API_KEY=9f86d081884c7d659a2f", "API_KEY=[SECRET]"),
    ("minha senha é S3gur@nca!", "minha senha é [SECRET]"),
    ("密码：Abc12345xyz", "密码：[SECRET]"),
    ("postgres://bob:hunter2!@db.local/x", "postgres://bob:[SECRET]@db.local/x"),
)

CLEAN: tuple[str, ...] = (
    # numbers whose check digits do not hold, or that are something else
    "order 1234567890123456 of 2026-11-22, invoice 4111111111111112",
    "CPF inválido 529.982.247-24 e 111.111.111-11",
    "NIF: 501964844",
    "pi is 3.14159265358979323846, e is 2.718281828459045",
    "timestamps 1700000000 and 1700000000000",
    "ZIP 90210-1234, version 1.2.3, build 10.15.7.1.2",
    "身份证号110105194912310021",
    "SSN 000-12-3456 and 666-12-3456",
    "ISBN 978-3-16-148410-0",
    "the years 1914-1918 and 1939-1945, pages 120-345",
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20",
    "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "uuid 123e4567-e89b-12d3-a456-426614174000",
    "loss 0.0123, 0.0456, 0.0789; shape [128, 4096, 32]",
    "127.0.0.1:8080, 0.0.0.0, at 12:34:56",
    # code
    "std::vector<int> a::b; x = y @ z; @decorator",
    "password = os.environ['PASSWORD']",
    "token = tokenizer.encode(text)",
    "api_key: <your key here>, secret = ${SECRET}",
    "const key = props.key || 'default'; password: string;",
    "git clone https://github.com/example/project.git && cd project",
    "sk-learn-something-very-long-name-indeed",
    "Authorization: Bearer $TOKEN",
    "for i in range(10_000_000): total += i ** 2  # 333333283333335000000",
    # prose
    "Esqueci-me da palavra-passe: o que devo fazer?",
    "The password is required. A secret is a secret.",
    "会议在2026年11月22日10:30开始，共有128人参加。",
    "O artigo 5.º da Lei n.º 13.709, de 14 de agosto de 2018, entra em vigor em 18.09.2020.",
    "Ring the bell 3 times, then call me maybe.",
    "Her passport expired. The telephone was invented in 1876.",
    "价格是1,234,567.89元，折扣10%。",
)
