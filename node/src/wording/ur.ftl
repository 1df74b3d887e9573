voice-call = { $name } کی کال
video-call = { $name } کی ویڈیو کال
message =
    { $count ->
        [one] { $name } کا پیغام
       *[other] { $name } کے { $count } پیغامات
    }
missed-call =
    { $count ->
        [one] { $name } کی مس کال
       *[other] { $name } کی { $count } مس کالیں
    }
contact-request = { $name } آپ کو رابطوں میں شامل کرنا چاہتے ہیں
voicemail =
    { $count ->
        [one] { $name } کا صوتی پیغام
       *[other] { $name } کے { $count } صوتی پیغامات
    }
file =
    { $count ->
        [one] { $name } کی طرف سے ایک فائل
       *[other] { $name } کی طرف سے { $count } فائلیں
    }
mail = { $name } کی ای میل
self-test = آزمائشی اطلاع پہنچ گئی
notice = { $name } کی طرف سے کچھ نیا
shown-on = { $event } ({ $device } پر دکھایا گیا)
accept = قبول کریں
decline = مسترد کریں
