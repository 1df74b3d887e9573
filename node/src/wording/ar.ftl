voice-call = مكالمة من { $name }
video-call = مكالمة فيديو من { $name }
message =
    { $count ->
        [zero] لا رسائل من { $name }
        [one] رسالة من { $name }
        [two] رسالتان من { $name }
        [few] { $count } رسائل من { $name }
        [many] { $count } رسالة من { $name }
       *[other] { $count } رسالة من { $name }
    }
missed-call =
    { $count ->
        [zero] لا مكالمات فائتة من { $name }
        [one] مكالمة فائتة من { $name }
        [two] مكالمتان فائتتان من { $name }
        [few] { $count } مكالمات فائتة من { $name }
        [many] { $count } مكالمة فائتة من { $name }
       *[other] { $count } مكالمة فائتة من { $name }
    }
contact-request = طلب جهة اتصال من { $name }
voicemail =
    { $count ->
        [zero] لا رسائل صوتية من { $name }
        [one] رسالة صوتية من { $name }
        [two] رسالتان صوتيتان من { $name }
        [few] { $count } رسائل صوتية من { $name }
        [many] { $count } رسالة صوتية من { $name }
       *[other] { $count } رسالة صوتية من { $name }
    }
file =
    { $count ->
        [zero] لا ملفات من { $name }
        [one] ملف من { $name }
        [two] ملفان من { $name }
        [few] { $count } ملفات من { $name }
        [many] { $count } ملفًا من { $name }
       *[other] { $count } ملف من { $name }
    }
mail = بريد إلكتروني من { $name }
self-test = وصل الإشعار التجريبي
notice = جديد من { $name }
shown-on = { $event } (يُعرض على { $device })
accept = قبول
decline = رفض
