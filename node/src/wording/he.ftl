voice-call = שיחה מאת { $name }
video-call = שיחת וידאו מאת { $name }
message =
    { $count ->
        [one] הודעה מאת { $name }
        [two] שתי הודעות מאת { $name }
        [many] { $count } הודעות מאת { $name }
       *[other] { $count } הודעות מאת { $name }
    }
missed-call =
    { $count ->
        [one] שיחה שלא נענתה מאת { $name }
        [two] שתי שיחות שלא נענו מאת { $name }
        [many] { $count } שיחות שלא נענו מאת { $name }
       *[other] { $count } שיחות שלא נענו מאת { $name }
    }
contact-request = בקשה להוספה לאנשי הקשר מאת { $name }
voicemail =
    { $count ->
        [one] הודעה קולית מאת { $name }
        [two] שתי הודעות קוליות מאת { $name }
        [many] { $count } הודעות קוליות מאת { $name }
       *[other] { $count } הודעות קוליות מאת { $name }
    }
file =
    { $count ->
        [one] קובץ מאת { $name }
        [two] שני קבצים מאת { $name }
        [many] { $count } קבצים מאת { $name }
       *[other] { $count } קבצים מאת { $name }
    }
mail = דוא״ל מאת { $name }
self-test = הודעת הבדיקה הגיעה
notice = חדש מאת { $name }
shown-on = { $event } (מוצג במכשיר { $device })
accept = קבלה
decline = דחייה
