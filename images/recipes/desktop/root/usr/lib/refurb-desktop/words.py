"""What the first start says, in the five languages of this system."""

# code: own name, locale, keyboard proposed, time zone proposed
LANGUAGES = {
    "fr": ("Français", "fr_FR.UTF-8", "fr", "Europe/Paris"),
    "en": ("English", "en_GB.UTF-8", "gb", "Europe/London"),
    "de": ("Deutsch", "de_DE.UTF-8", "de", "Europe/Berlin"),
    "ar": ("العربية", "ar_EG.UTF-8", "fr,ara", "Europe/Paris"),
    "uk": ("Українська", "uk_UA.UTF-8", "us,ua", "Europe/Kyiv"),
}
RIGHT_TO_LEFT = {"ar"}

# Layouts and variants of xkeyboard-config. Where letters are not Latin a Latin
# layout comes first: log-in names and passwords need one.
KEYBOARDS = [
    ("fr", "", "Français (AZERTY)"),
    ("be", "", "Belgique · België (AZERTY)"),
    ("ch,ch", ",fr", "Schweiz · Suisse (QWERTZ)"),
    ("de", "", "Deutsch (QWERTZ)"),
    ("gb", "", "English, UK (QWERTY)"),
    ("us", "", "English, US (QWERTY)"),
    ("fr,ara", ",azerty", "العربية + AZERTY"),
    ("us,ara", ",", "العربية + QWERTY"),
    ("us,ua", ",", "Українська + QWERTY"),
]

ZONES = [
    "Europe/Paris", "Europe/Brussels", "Europe/Zurich", "Europe/Berlin", "Europe/Vienna", "Europe/Luxembourg",
    "Europe/London", "Europe/Dublin", "Europe/Madrid", "Europe/Lisbon", "Europe/Rome", "Europe/Warsaw",
    "Europe/Kyiv", "Europe/Bucharest", "Europe/Istanbul", "Africa/Casablanca", "Africa/Algiers", "Africa/Tunis",
    "Africa/Cairo", "Africa/Dakar", "Africa/Abidjan", "Asia/Damascus", "Asia/Beirut", "Asia/Baghdad",
    "Asia/Dubai", "Asia/Kabul", "America/New_York", "America/Montreal", "Etc/UTC",
]

WORDS = {
    "en": {
        "keyboard": "Keyboard and time",
        "keyboard-text": "Which keyboard does this computer have?",
        "try": "Try it here",
        "switch": "Alt + Shift switches between the two.",
        "zone": "Time zone",
        "you": "Who will use this computer?",
        "you-text": "Only this computer knows what you enter here.",
        "name": "Your name",
        "login": "Name for logging in",
        "password": "Password",
        "again": "Password again",
        "optional": "You may leave the password empty. Then anybody can use this computer.",
        "show": "Show",
        "back": "Back",
        "next": "Next",
        "start": "Start",
        "bad-name": "Please enter your name.",
        "bad-login": "The name for logging in takes small letters a–z and digits, and begins with a letter.",
        "taken": "This name is in use by the system. Please choose another one.",
        "differ": "The two passwords differ.",
        "working": "Preparing your computer…",
        "failed": "That did not work. Please try once more.",
    },
    "fr": {
        "keyboard": "Clavier et heure",
        "keyboard-text": "Quel clavier a cet ordinateur ?",
        "try": "Essayez ici",
        "switch": "Alt + Maj passe de l’un à l’autre.",
        "zone": "Fuseau horaire",
        "you": "Qui utilisera cet ordinateur ?",
        "you-text": "Ce que vous saisissez ici reste dans cet ordinateur.",
        "name": "Votre nom",
        "login": "Nom de connexion",
        "password": "Mot de passe",
        "again": "Mot de passe, encore une fois",
        "optional": "Le mot de passe peut rester vide. Chacun pourra alors utiliser cet ordinateur.",
        "show": "Afficher",
        "back": "Retour",
        "next": "Suivant",
        "start": "Commencer",
        "bad-name": "Veuillez saisir votre nom.",
        "bad-login": "Le nom de connexion : lettres minuscules a–z et chiffres, en commençant par une lettre.",
        "taken": "Ce nom est utilisé par le système. Veuillez en choisir un autre.",
        "differ": "Les deux mots de passe sont différents.",
        "working": "Préparation de votre ordinateur…",
        "failed": "Cela n’a pas fonctionné. Veuillez réessayer.",
    },
    "de": {
        "keyboard": "Tastatur und Zeit",
        "keyboard-text": "Welche Tastatur hat dieser Computer?",
        "try": "Hier ausprobieren",
        "switch": "Alt + Umschalt wechselt zwischen beiden.",
        "zone": "Zeitzone",
        "you": "Wer wird diesen Computer benutzen?",
        "you-text": "Was Sie hier eingeben, bleibt auf diesem Computer.",
        "name": "Ihr Name",
        "login": "Anmeldename",
        "password": "Passwort",
        "again": "Passwort, noch einmal",
        "optional": "Das Passwort darf leer bleiben. Dann kann jeder diesen Computer benutzen.",
        "show": "Zeigen",
        "back": "Zurück",
        "next": "Weiter",
        "start": "Loslegen",
        "bad-name": "Bitte geben Sie Ihren Namen ein.",
        "bad-login": "Der Anmeldename besteht aus kleinen Buchstaben a–z und Ziffern und beginnt mit einem Buchstaben.",
        "taken": "Diesen Namen benutzt das System. Bitte wählen Sie einen anderen.",
        "differ": "Die beiden Passwörter sind verschieden.",
        "working": "Ihr Computer wird vorbereitet…",
        "failed": "Das hat nicht geklappt. Bitte versuchen Sie es noch einmal.",
    },
    "ar": {
        "keyboard": "لوحة المفاتيح والوقت",
        "keyboard-text": "ما هي لوحة مفاتيح هذا الحاسوب؟",
        "try": "جرّبها هنا",
        "switch": "المفتاحان Alt + Shift للتبديل بين اللغتين.",
        "zone": "المنطقة الزمنية",
        "you": "من سيستخدم هذا الحاسوب؟",
        "you-text": "ما تكتبه هنا يبقى في هذا الحاسوب فقط.",
        "name": "اسمك",
        "login": "اسم الدخول",
        "password": "كلمة المرور",
        "again": "كلمة المرور مرة أخرى",
        "optional": "يمكن ترك كلمة المرور فارغة، وعندها يستطيع أي شخص استخدام هذا الحاسوب.",
        "show": "إظهار",
        "back": "رجوع",
        "next": "التالي",
        "start": "ابدأ",
        "bad-name": "من فضلك اكتب اسمك.",
        "bad-login": "اسم الدخول يتكوّن من حروف لاتينية صغيرة a–z وأرقام، ويبدأ بحرف.",
        "taken": "هذا الاسم يستخدمه النظام. من فضلك اختر اسمًا آخر.",
        "differ": "كلمتا المرور مختلفتان.",
        "working": "يجري تجهيز حاسوبك…",
        "failed": "لم ينجح ذلك. من فضلك حاول مرة أخرى.",
    },
    "uk": {
        "keyboard": "Клавіатура й час",
        "keyboard-text": "Яка клавіатура в цього комп’ютера?",
        "try": "Спробуйте тут",
        "switch": "Alt + Shift перемикає між двома розкладками.",
        "zone": "Часовий пояс",
        "you": "Хто користуватиметься цим комп’ютером?",
        "you-text": "Те, що ви тут уведете, лишається на цьому комп’ютері.",
        "name": "Ваше ім’я",
        "login": "Ім’я для входу",
        "password": "Пароль",
        "again": "Пароль ще раз",
        "optional": "Пароль можна не вводити. Тоді комп’ютером зможе користуватися будь-хто.",
        "show": "Показати",
        "back": "Назад",
        "next": "Далі",
        "start": "Почати",
        "bad-name": "Будь ласка, введіть своє ім’я.",
        "bad-login": "Ім’я для входу складається з малих латинських літер a–z і цифр та починається з літери.",
        "taken": "Це ім’я використовує система. Будь ласка, виберіть інше.",
        "differ": "Паролі не збігаються.",
        "working": "Готуємо ваш комп’ютер…",
        "failed": "Не вдалося. Будь ласка, спробуйте ще раз.",
    },
}

# Ukraine's official table for names (cabinet resolution 55 of 2010), without
# its rules for a word's beginning: this is only a proposal. The last ones are
# letters of Russian names.
CYRILLIC = dict(zip("абвгґдеєжзиіїйклмнопрстуфхцчшщюяыэё", (
    "a b v h g d e ie zh z y i i i k l m n o p r s t u f kh ts ch sh shch iu ia y e io").split(), strict=True))
CYRILLIC.update({"ь": "", "ъ": "", "’": "", "'": ""})

if __name__ == "__main__":  # while the system is built: is anything left unsaid?
    for code, (_, _, layout, zone) in LANGUAGES.items():
        assert set(WORDS[code]) == set(WORDS["en"]), code
        assert all(WORDS[code].values()), code
        assert layout in [k[0] for k in KEYBOARDS] and zone in ZONES, code
